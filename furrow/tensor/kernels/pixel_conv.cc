#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "furrow/tensor/kernels/pixel_conv.cc"
#include "furrow/tensor/kernels/targets.h"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on
#include <vector>

#include "furrow/tensor/kernels/parallel.h"
#include "furrow/tensor/kernels/pixel_conv-inl.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {
namespace {

// The windows of a weight: channels `across` become lanes, chains run `along`.
template <class Number>
struct Windows {
  const Number* weight;
  int64_t across, along, taps;
  int64_t across_step, along_step;  // from the window of a channel to the next one's
  int64_t columns;                  // numbers of a window that are one Tap
  bool mirrored;                    // from the last of a window to its first
};

template <class Number>
Windows<Number> forward_windows(const PixelConvShape& s, const Number* weight) {
  const int64_t taps = s.kernel * s.kernel;
  return {weight, s.out_channels, s.in_channels, taps, s.in_channels * taps, taps, s.kernel, false};
}
template <class Number>
Windows<Number> backward_windows(const PixelConvShape& s, const Number* weight) {
  const int64_t taps = s.kernel * s.kernel;
  return {weight, s.in_channels, s.out_channels, taps, taps, s.in_channels * taps, 1, false};
}

// Floats of packed weights: [block of `across`][tap][lanes of `along`][columns][kChannelBlock].
template <class Way>
int64_t packed_floats(const Windows<typename Way::Number>& w) {
  return channel_blocks(w.across) * w.taps * Way::lanes(w.along) * kChannelBlock;
}

// The windows of one channel along and the block of those across that begins with `first`.
template <class Way>
void pack_channel(const Windows<typename Way::Number>& w, int64_t first, int64_t channel, float* block) {
  const int64_t count = std::min(kChannelBlock, w.across - first), lane = w.columns * kChannelBlock;
  const auto* from = w.weight + first * w.across_step + channel * w.along_step;
  ScratchScope scratch;
  float* turned = scratch.floats(w.taps * kChannelBlock);
  if constexpr (!Way::kPaired && std::is_same_v<typename Way::Number, float>)
    transpose_block(from, w.across_step, count, w.taps, turned, kChannelBlock);
  for (int64_t t = 0; t < w.taps; ++t) {
    const int64_t number = w.mirrored ? w.taps - 1 - t : t;
    float* to = block + t / w.columns * Way::lanes(w.along) * lane + t % w.columns * kChannelBlock;
    if constexpr (!Way::kPaired && std::is_same_v<typename Way::Number, float>) {
      std::copy_n(turned + number * kChannelBlock, count, to + channel * lane);
    } else {
      for (int64_t a = 0; a < count; ++a) Way::put(from[a * w.across_step + number], channel, lane, to + a);
    }
  }
}

template <class Way>
void pack(const Windows<typename Way::Number>& w, float* packed) {
  const int64_t block = w.taps * Way::lanes(w.along) * kChannelBlock;
  for (int64_t first = 0; first < w.across; first += kChannelBlock, packed += block) {
    if (Way::kPaired || w.across - first < kChannelBlock)
      std::memset(packed, 0, static_cast<size_t>(block) * sizeof(float));
    for (int64_t b = 0; b < w.along; ++b) pack_channel<Way>(w, first, b, packed);
  }
}

// Rows of an image with zeros around it, as many as a window is high: each in the place of the one that many
// rows above.
template <class Way>
class WindowRows {
 public:
  WindowRows(const PixelConvShape& s, ScratchScope& scratch)
      : s_(s), border_(input_border<Way>(s)), rows_(scratch.floats(s.kernel * border_.row())) {
    std::memset(rows_, 0, static_cast<size_t>(s.kernel * border_.row()) * sizeof(float));
  }
  int64_t lanes() const { return border_.lanes; }
  void start(const typename Way::Number* image) {
    image_ = image;
    end_ = 0;
  }
  // Those of the window of a row of outputs, from the first such row to the last.
  void move_to(int64_t output) {
    const int64_t first = output * s_.stride;
    for (end_ = std::max(end_, first); end_ < first + s_.kernel; ++end_) fill(end_ - s_.padding, at(end_));
  }
  float* at(int64_t row) const { return rows_ + row % s_.kernel * border_.row(); }

 private:
  void fill(int64_t y, float* row) const {
    float* to = row + s_.padding * border_.lanes;
    if (y >= 0 && y < s_.height) {
      Way::load_pixels(image_ + y * s_.width * s_.in_channels, s_.width, s_.in_channels, to);
    } else {
      std::memset(to, 0, static_cast<size_t>(s_.width * border_.lanes) * sizeof(float));
    }
  }

  const PixelConvShape& s_;
  Bordered border_;
  float* rows_;
  const typename Way::Number* image_ = nullptr;
  int64_t end_ = 0;
};

// The rows of a window are contiguous: one tap each.
template <class Way>
void forward_image(const PixelConvShape& s, WindowRows<Way>& rows, const float* packed, Ahead ahead,
                   typename Way::Number* y, Tap* taps) {
  const int64_t tap = s.kernel * rows.lanes() * kChannelBlock;
  for (int64_t oy = 0; oy < s.out_height(); ++oy) {
    rows.move_to(oy);
    for (int64_t o = 0; o < channel_blocks(s.out_channels); ++o) {
      for (int64_t ky = 0; ky < s.kernel; ++ky)
        taps[ky] = {rows.at(oy * s.stride + ky), packed + (o * s.kernel + ky) * tap};
      convolve_row<Way>({taps, s.kernel, rows.lanes(), s.kernel, s.stride * rows.lanes(), s.out_channels,
                         y + oy * s.out_width() * s.out_channels + o * kChannelBlock,
                         std::min(kChannelBlock, s.out_channels - o * kChannelBlock), &ahead},
                        s.out_width());
    }
  }
}

// Which outputs an input has a part in, along one dim: taps k with (at + padding - k) a multiple of the
// stride, each meeting output (at + padding - k) / stride.
struct Meeting {
  int64_t k, output;
};
void meetings(const PixelConvShape& s, int64_t at, std::vector<Meeting>* found) {
  found->clear();
  for (int64_t k = (at + s.padding) % s.stride; k < s.kernel; k += s.stride)
    found->push_back({k, (at + s.padding - k) / s.stride});  // exact, also below zero
}

// Zeros around the gradient, so that outputs that do not exist need no case of their own.
template <class Way>
Bordered gradient_border(const PixelConvShape& s) {
  const int64_t before = (s.kernel - 1 - s.padding + s.stride - 1) / s.stride;
  const int64_t furthest = (std::max(s.height, s.width) - 1 + s.padding) / s.stride;
  const int64_t after = std::max<int64_t>(0, furthest - std::min(s.out_height(), s.out_width()) + 1);
  return {s.out_height(), s.out_width(), Way::lanes(s.out_channels), before, after};
}

// Inputs that are `stride` apart meet the same taps, so they make up a row.
template <class Way>
void backward_image(const PixelConvShape& s, const float* bordered, const float* packed, Ahead ahead,
                    typename Way::Number* dx) {
  const auto b = gradient_border<Way>(s);
  const int64_t n = b.lanes, block = s.kernel * s.kernel * n * kChannelBlock;
  std::vector<Meeting> rows, columns;
  std::vector<Tap> taps;
  for (int64_t i = 0; i < channel_blocks(s.in_channels); ++i) {
    for (int64_t y = 0; y < s.height; ++y) {
      meetings(s, y, &rows);
      for (int64_t x = 0; x < std::min(s.stride, s.width); ++x) {
        meetings(s, x, &columns);
        taps.clear();
        for (const Meeting& row : rows) {
          for (const Meeting& column : columns)
            taps.push_back({bordered + (row.output + b.before) * b.row() + (column.output + b.before) * n,
                            packed + i * block + (row.k * s.kernel + column.k) * n * kChannelBlock});
        }
        convolve_row<Way>({taps.data(), static_cast<int64_t>(taps.size()), n, 1, n, s.stride * s.in_channels,
                           dx + (y * s.width + x) * s.in_channels + i * kChannelBlock,
                           std::min(kChannelBlock, s.in_channels - i * kChannelBlock), &ahead},
                          (s.width - x + s.stride - 1) / s.stride);
      }
    }
  }
}

// y of x, image by image.
template <class Way, class T>
void convolve(const PixelConvShape& s, const T* x, const Windows<T>& windows, T* y, int threads) {
  ScratchScope scratch;
  float* packed = scratch.floats(packed_floats<Way>(windows));
  pack<Way>(windows, packed);
  const int64_t image = s.in_numbers() * static_cast<int64_t>(sizeof(T));
  const int64_t steps =
      s.out_height() * channel_blocks(s.out_channels) * tiles(s.out_width(), s.out_channels) * s.kernel;
  parallel_for(threads, s.batch, [&](int64_t begin, int64_t end) {
    ScratchScope own;
    WindowRows<Way> rows(s, own);
    std::vector<Tap> taps(static_cast<size_t>(s.kernel));
    for (int64_t n = begin; n < end; ++n) {
      rows.start(x + n * s.in_numbers());
      const Ahead next = n + 1 < end ? Ahead(x + (n + 1) * s.in_numbers(), image, steps) : Ahead();
      forward_image<Way>(s, rows, packed, next, y + n * s.out_numbers(), taps.data());
    }
  });
}

template <class Way, class T>
void run_forward(const PixelConvForward<T>& a, int threads) {
  convolve<Way>(a.shape, a.x, forward_windows(a.shape, a.weight), a.y, threads);
}

// With a stride of one the gradient of the input is a convolution too: of the output's, by mirrored windows.
PixelConvShape mirrored(const PixelConvShape& s) {
  return {s.batch, s.out_channels,          s.out_height(), s.out_width(), s.in_channels, s.kernel,
          1,       s.kernel - 1 - s.padding};
}

template <class Way, class T>
void run_backward_input(const PixelConvBackwardInput<T>& a, int threads) {
  const PixelConvShape& s = a.shape;
  Windows<T> windows = backward_windows(s, a.weight);
  if (s.stride == 1) {
    windows.columns = s.kernel;
    windows.mirrored = true;
    convolve<Way>(mirrored(s), a.dy, windows, a.dx, threads);
    return;
  }
  const auto b = gradient_border<Way>(s);
  ScratchScope scratch;
  float* packed = scratch.floats(packed_floats<Way>(windows));
  pack<Way>(windows, packed);
  const int64_t image = s.out_numbers() * static_cast<int64_t>(sizeof(T));
  const int64_t steps = s.height * channel_blocks(s.in_channels) * std::min(s.stride, s.width);
  parallel_for(threads, s.batch, [&](int64_t begin, int64_t end) {
    ScratchScope own;
    float* bordered = own.floats(b.floats());
    for (int64_t n = begin; n < end; ++n) {
      load_bordered<Way>(b, a.dy + n * s.out_numbers(), s.out_channels, bordered);
      const Ahead next = n + 1 < end ? Ahead(a.dy + (n + 1) * s.out_numbers(), image, steps) : Ahead();
      backward_image<Way>(s, bordered, packed, next, a.dx + n * s.in_numbers());
    }
  });
}

}  // namespace

void run_forward_f32(const PixelConvForward<float>& a, int threads) {
  run_forward<OneByOne<float>>(a, threads);
}
void run_forward_f16(const PixelConvForward<f16>& a, int threads) { run_forward<OneByOne<f16>>(a, threads); }
void run_forward_bf16(const PixelConvForward<bf16>& a, int threads) {
  by_way_of_bf16([&]<class Way>(Way) { run_forward<Way>(a, threads); });
}

void run_backward_input_f32(const PixelConvBackwardInput<float>& a, int threads) {
  run_backward_input<OneByOne<float>>(a, threads);
}
void run_backward_input_f16(const PixelConvBackwardInput<f16>& a, int threads) {
  run_backward_input<OneByOne<f16>>(a, threads);
}
void run_backward_input_bf16(const PixelConvBackwardInput<bf16>& a, int threads) {
  by_way_of_bf16([&]<class Way>(Way) { run_backward_input<Way>(a, threads); });
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <fmt/format.h>

#include "furrow/base/error.h"
#include "furrow/tensor/kernels/pixel_conv_check.h"

namespace furrow::tensor::kernels {

void check_pixel_conv_shape(const PixelConvShape& s) {
  const bool sizes = s.batch >= 1 && s.in_channels >= 1 && s.height >= 1 && s.width >= 1 &&
                     s.out_channels >= 1 && s.kernel >= 1 && s.stride >= 1 && s.padding >= 0 &&
                     s.padding < s.kernel;
  if (sizes && s.height + 2 * s.padding >= s.kernel && s.width + 2 * s.padding >= s.kernel) return;
  throw Error(
      ErrorCode::kInvalidArgument,
      fmt::format("convolution of {} images [{}, {}, {}] with {} kernels of {}x{}, stride {}, padding {}: "
                  "the sizes must be positive, padding smaller than the kernel, and the output not empty",
                  s.batch, s.height, s.width, s.in_channels, s.out_channels, s.kernel, s.kernel, s.stride,
                  s.padding));
}

#define FURROW_DISPATCH(name, Args, suffix, T)                  \
  HWY_EXPORT(run_##name##_##suffix);                            \
  void pixel_conv_##name(const Args<T>& args, int threads) {    \
    check_pixel_conv_shape(args.shape);                         \
    HWY_DYNAMIC_DISPATCH(run_##name##_##suffix)(args, threads); \
  }
FURROW_DISPATCH(forward, PixelConvForward, f32, float)
FURROW_DISPATCH(forward, PixelConvForward, bf16, bf16)
FURROW_DISPATCH(forward, PixelConvForward, f16, f16)
FURROW_DISPATCH(backward_input, PixelConvBackwardInput, f32, float)
FURROW_DISPATCH(backward_input, PixelConvBackwardInput, bf16, bf16)
FURROW_DISPATCH(backward_input, PixelConvBackwardInput, f16, f16)
#undef FURROW_DISPATCH

}  // namespace furrow::tensor::kernels
#endif
