#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "furrow/tensor/kernels/pixel_conv_weight.cc"
#include "furrow/tensor/kernels/targets.h"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on
#include "furrow/tensor/kernels/blocks.h"
#include "furrow/tensor/kernels/parallel.h"
#include "furrow/tensor/kernels/pixel_conv-inl.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {
namespace {

constexpr int64_t kMostBlocks = 8;                     // of images
constexpr int64_t kMostPartFloats = int64_t{1} << 22;  // of all blocks together
constexpr int64_t kWorthAThread = 2048;                // floats of a block, to join them

// What some images that lie one after the other, or some rows of one, have as their part in the gradient:
// out[ky][kx][in][out_padded] gets the sum over their pixels of x times dy.  A lane is a pixel, or what a
// pair of pixels in a row have of a channel; where the row's last has no neighbour, dy's pair is filled with
// zero.
struct WeightJob {
  const PixelConvShape& s;
  int64_t images, rows;  // rows of dy in an image
  const float* x;        // with its border
  int64_t x_step, x_row, x_image;
  const float* dy;     // dense
  int64_t columns;     // of dy
  bool last_is_alone;  // of the columns
  float* out;
  bool first = false;  // to write there: all others add
  int64_t out_row() const { return channel_blocks(s.out_channels) * kChannelBlock; }
};

// Sums of T inputs of a window's row times V vectors of outputs, over one column.  Of the last vector so many
// lanes exist: all of them where the vectors are whole.
template <class Way, bool kAlone, bool kWhole, int T, int V>
HWY_INLINE void add_column(const float* x, const float* dy, int64_t last, VF (&acc)[T][V]) {
  VF g[V];
#pragma GCC unroll 2
  for (int v = 0; v + 1 < V; ++v) g[v] = load(dy + v * kLanes);
  const float* end = dy + (V - 1) * kLanes;
  g[V - 1] = kWhole ? load(end) : load_part(end, last);
#pragma GCC unroll 32
  for (int t = 0; t < T; ++t) {
    VF xv = set(x[t]);
    if constexpr (kAlone) xv = Way::first(xv);
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) acc[t][v] = Way::add_products(xv, g[v], acc[t][v]);
  }
}

// T inputs of row ky of the window (contiguous in memory) times V vectors of outputs.
template <class Way, int T, int V, bool kWhole>
HWY_INLINE void correlate(const WeightJob& job, int64_t ky, int64_t input, int64_t output) {
  const PixelConvShape& s = job.s;
  VF acc[T][V];
#pragma GCC unroll 32
  for (int t = 0; t < T; ++t) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) acc[t][v] = zero();
  }
  const int64_t last = s.out_channels - output - (V - 1) * kLanes;
  const int64_t with_neighbour = job.columns - (job.last_is_alone ? 1 : 0);
  const float* dy = job.dy + output;
  for (int64_t n = 0; n < job.images; ++n) {
    for (int64_t oy = 0; oy < job.rows; ++oy) {
      const float* x = job.x + n * job.x_image + (oy * s.stride + ky) * job.x_row + input;
      for (const float* end = x + with_neighbour * job.x_step; x != end;
           x += job.x_step, dy += s.out_channels)
        add_column<Way, false, kWhole>(x, dy, last, acc);
      if constexpr (Way::kPaired) {
        if (!job.last_is_alone) continue;
        add_column<Way, true, kWhole>(x, dy, last, acc);
        dy += s.out_channels;
      }
    }
  }
  float* out = job.out + (ky * s.kernel * s.in_channels + input) * job.out_row() + output;
#pragma GCC unroll 32
  for (int t = 0; t < T; ++t) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      float* to = out + t * job.out_row() + v * kLanes;
      store(job.first ? acc[t][v] : hn::Add(load(to), acc[t][v]), to);
    }
  }
}

// A window of three has a multiple of three inputs in a row.
constexpr int kWideInputs = kVectorRegisters == 32 ? 12 : 4;
constexpr int kNarrowInputs = kVectorRegisters == 32 ? 24 : 8;

template <class Way, int V, bool kWhole>
void correlate_block(const WeightJob& job, int64_t ky, int64_t output) {
  constexpr int kMost = V == 1 ? kNarrowInputs : kWideInputs;
  const int64_t inputs = job.s.kernel * job.s.in_channels;
  int64_t i = 0;
  for (; i + kMost <= inputs; i += kMost) correlate<Way, kMost, V, kWhole>(job, ky, i, output);
  for (; i + 4 <= inputs; i += 4) correlate<Way, 4, V, kWhole>(job, ky, i, output);
  for (; i < inputs; ++i) correlate<Way, 1, V, kWhole>(job, ky, i, output);
}

template <class Way>
void correlate_row(const WeightJob& job, int64_t ky) {
  for (int64_t o = 0; o < job.s.out_channels; o += kChannelBlock) {
    const int64_t channels = job.s.out_channels - o;
    if (channels < kLanes) {
      correlate_block<Way, 1, false>(job, ky, o);
    } else if (channels == kLanes) {
      correlate_block<Way, 1, true>(job, ky, o);
    } else if (channels < kChannelBlock) {
      correlate_block<Way, 2, false>(job, ky, o);
    } else {
      correlate_block<Way, 2, true>(job, ky, o);
    }
  }
}

// Rows by rows where it is one image.
template <class Way>
void correlate_group(const WeightJob& job, const Blocks& rows) {
  for (int64_t r = 0; r < rows.parts; ++r) {
    WeightJob part = job;
    part.first = job.first && r == 0;
    part.rows = rows.size(r);
    part.x += rows.begin(r) * job.s.stride * job.x_row;
    part.dy += rows.begin(r) * job.columns * job.s.out_channels;
    for (int64_t ky = 0; ky < job.s.kernel; ++ky) correlate_row<Way>(part, ky);
  }
}

// [ky][kx][in][out_padded] of every block to [out][in][ky][kx], the blocks added in order; some of the
// inputs.
void join_blocks(const WeightJob& job, const float* parts, int64_t blocks, int64_t begin, int64_t end,
                 float* dweight) {
  const PixelConvShape& s = job.s;
  const int64_t taps = s.kernel * s.kernel, row = job.out_row(), stride = taps * s.in_channels * row;
  ScratchScope scratch;
  float* sums = scratch.floats(taps * kLanes);
  for (int64_t i = begin; i < end; ++i) {
    for (int64_t o = 0; o < s.out_channels; o += kLanes) {
      for (int64_t t = 0; t < taps; ++t) {
        const float* part = parts + (t * s.in_channels + i) * row + o;
        VF sum = load(part);
        for (int64_t b = 1; b < blocks; ++b) sum = hn::Add(sum, load(part + b * stride));
        store(sum, sums + t * kLanes);
      }
      const int64_t count = std::min<int64_t>(kLanes, s.out_channels - o);
      transpose_block(sums, kLanes, taps, count, dweight + (o * s.in_channels + i) * taps,
                      s.in_channels * taps);
    }
  }
}

// What is multiplied at a time, as it is read again and again: as many images, or rows of one, as stay in a
// first-level cache.
constexpr int64_t kGroupFloats = 11 * 1024;
struct Groups {
  int64_t images;
  Blocks rows;
  Groups(const PixelConvShape& s, int64_t image_floats)
      : images(std::clamp(kGroupFloats / image_floats, int64_t{1}, s.batch)),
        rows(s.out_height(), std::max<int64_t>(1, s.out_height() * kGroupFloats / image_floats)) {}
};

// Images and their gradients as lanes: one by one as they are, in float32.
template <class Way>
class Lanes {
 public:
  using T = typename Way::Number;
  explicit Lanes(const PixelConvShape& s) : s_(s), border_(input_border<Way>(s)) {}
  int64_t x_floats() const { return border_.floats(); }
  int64_t dy_floats() const { return std::is_same_v<T, float> ? 0 : s_.out_numbers(); }
  int64_t image_floats() const { return x_floats() + s_.out_numbers(); }  // that are read
  int64_t spare_floats() const { return 0; }
  void load_x(const T* x, float* to, float* /*spare*/) const {
    load_bordered<Way>(border_, x, s_.in_channels, to);
  }
  // Where they are, which is `to` unless they are float32 already.
  const float* load_dy(const T* dy, int64_t images, float* to) const {
    if constexpr (std::is_same_v<T, float>)
      return dy;
    else
      Way::load_pixels(dy, images, s_.out_numbers(), to);
    return to;
  }
  WeightJob job(int64_t images, const float* x, const float* dy, float* out) const {
    return {s_, images,         s_.out_height(), x,  s_.stride * s_.in_channels, border_.row(), x_floats(),
            dy, s_.out_width(), false,           out};
  }

 private:
  PixelConvShape s_;
  Bordered border_;
};

#if FURROW_BF16_PAIRS
// A pixel with the one that the next output sees in its place.
template <>
class Lanes<InPairs> {
 public:
  // As if two numbers were one of float32: a row of the border may end in the middle of a lane.
  explicit Lanes(const PixelConvShape& s) : s_(s) {}
  int64_t width() const { return (s_.width + 2 * s_.padding) * s_.in_channels; }
  int64_t x_floats() const { return (s_.height + 2 * s_.padding) * width(); }
  int64_t columns() const { return (s_.out_width() + 1) / 2; }
  int64_t dy_floats() const { return s_.out_height() * columns() * s_.out_channels; }
  int64_t image_floats() const { return x_floats() + dy_floats(); }
  int64_t spare_floats() const { return (x_floats() + 1) / 2; }
  void load_x(const bf16* x, float* to, float* spare) const {
    auto* bordered = reinterpret_cast<bf16*>(spare);
    const int64_t line = s_.width * s_.in_channels, border = s_.padding * s_.in_channels;
    std::memset(bordered, 0, static_cast<size_t>(x_floats()) * sizeof(bf16));
    for (int64_t y = 0; y < s_.height; ++y) {
      std::memcpy(bordered + (y + s_.padding) * width() + border, x + y * line,
                  static_cast<size_t>(line) * sizeof(bf16));
    }
    // Behind the end of a row the neighbour is the next row's, which no column but a lone one reads.
    const int64_t next = s_.stride * s_.in_channels, paired = std::max<int64_t>(0, x_floats() - next);
    zip(bordered, bordered + next, paired, to);
    zip(bordered + paired, nullptr, x_floats() - paired, to + paired);
  }
  const float* load_dy(const bf16* dy, int64_t images, float* to) const {
    const int64_t n = s_.out_channels, width = s_.out_width();
    float* pair = to;
    for (int64_t row = 0; row < images * s_.out_height(); ++row) {
      for (int64_t ox = 0; ox < width; ox += 2, pair += n) {
        const bf16* pixel = dy + (row * width + ox) * n;
        zip(pixel, ox + 1 < width ? pixel + n : nullptr, n, pair);
      }
    }
    return to;
  }
  WeightJob job(int64_t images, const float* x, const float* dy, float* out) const {
    return {s_, images,    s_.out_height(),         x,  2 * s_.stride * s_.in_channels, width(), x_floats(),
            dy, columns(), s_.out_width() % 2 == 1, out};
  }

 private:
  PixelConvShape s_;
};
#endif

template <class Way, class T>
void run_backward_weight(const PixelConvBackwardWeight<T>& a, int threads) {
  const PixelConvShape& s = a.shape;
  const Lanes<Way> lanes(s);
  const WeightJob none = lanes.job(0, nullptr, nullptr, nullptr);
  const int64_t floats = s.kernel * s.kernel * s.in_channels * none.out_row();
  const int64_t blocks = std::clamp(kMostPartFloats / floats, int64_t{1}, std::min(kMostBlocks, s.batch));
  const Groups groups(s, lanes.image_floats());
  ScratchScope scratch;
  float* parts = scratch.floats(blocks * floats);
  parallel_for(threads, blocks, [&](int64_t begin, int64_t end) {
    ScratchScope own;
    float* x = own.floats(groups.images * lanes.x_floats());
    float* dy = own.floats(groups.images * lanes.dy_floats());
    float* spare = own.floats(lanes.spare_floats());
    for (int64_t block = begin; block < end; ++block) {
      float* part = parts + block * floats;
      const int64_t first = block * s.batch / blocks, last = (block + 1) * s.batch / blocks;
      for (int64_t n = first; n < last; n += groups.images) {
        const int64_t images = std::min(groups.images, last - n);
        for (int64_t i = 0; i < images; ++i)
          lanes.load_x(a.x + (n + i) * s.in_numbers(), x + i * lanes.x_floats(), spare);
        const float* gradient = lanes.load_dy(a.dy + n * s.out_numbers(), images, dy);
        WeightJob job = lanes.job(images, x, gradient, part);
        job.first = n == first;
        correlate_group<Way>(job, groups.rows);
      }
    }
  });
  parallel_for(team_for(floats, kWorthAThread, threads), s.in_channels,
               [&](int64_t begin, int64_t end) { join_blocks(none, parts, blocks, begin, end, a.dweight); });
}

}  // namespace

void run_backward_weight_f32(const PixelConvBackwardWeight<float>& a, int threads) {
  run_backward_weight<OneByOne<float>>(a, threads);
}
void run_backward_weight_f16(const PixelConvBackwardWeight<f16>& a, int threads) {
  run_backward_weight<OneByOne<f16>>(a, threads);
}
void run_backward_weight_bf16(const PixelConvBackwardWeight<bf16>& a, int threads) {
  by_way_of_bf16([&]<class Way>(Way) { run_backward_weight<Way>(a, threads); });
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "furrow/tensor/kernels/pixel_conv_check.h"

namespace furrow::tensor::kernels {

#define FURROW_DISPATCH(suffix, T)                                                       \
  HWY_EXPORT(run_backward_weight_##suffix);                                              \
  void pixel_conv_backward_weight(const PixelConvBackwardWeight<T>& args, int threads) { \
    check_pixel_conv_shape(args.shape);                                                  \
    HWY_DYNAMIC_DISPATCH(run_backward_weight_##suffix)(args, threads);                   \
  }
FURROW_DISPATCH(f32, float)
FURROW_DISPATCH(bf16, bf16)
FURROW_DISPATCH(f16, f16)
#undef FURROW_DISPATCH

}  // namespace furrow::tensor::kernels
#endif
