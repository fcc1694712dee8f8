#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "furrow/tensor/kernels/pixel_conv_weight.cc"
#include "furrow/tensor/kernels/targets.h"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on
#include "furrow/tensor/kernels/parallel.h"
#include "furrow/tensor/kernels/pixel_conv-inl.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {
namespace {

constexpr int64_t kMostBlocks = 8;                     // of images
constexpr int64_t kMostPartFloats = int64_t{1} << 22;  // of all blocks together

// One image's part in the gradient: out[ky][kx][in][out_padded] gets the sum over pixels of x times dy.
struct WeightJob {
  const PixelConvShape& s;
  const float* x;  // with its border
  int64_t x_row;
  const float* dy;
  float* out;
  int64_t out_row() const { return channel_blocks(s.out_channels) * kChannelBlock; }
};

// T inputs of row ky of the window (contiguous in memory) times V vectors of outputs.
template <int T, int V>
HWY_INLINE void correlate(const WeightJob& job, int64_t ky, int64_t input, int64_t output) {
  const PixelConvShape& s = job.s;
  VF acc[T][V];
#pragma GCC unroll 16
  for (int t = 0; t < T; ++t) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) acc[t][v] = zero();
  }
  const int64_t step = s.stride * s.in_channels;
  const int64_t last = s.out_channels - output - (V - 1) * kLanes;  // lanes of the last vector that exist
  const float* dy = job.dy + output;
  for (int64_t oy = 0; oy < s.out_height(); ++oy) {
    const float* x = job.x + (oy * s.stride + ky) * job.x_row + input;
    for (int64_t ox = 0; ox < s.out_width(); ++ox, x += step, dy += s.out_channels) {
      VF g[V];
#pragma GCC unroll 2
      for (int v = 0; v + 1 < V; ++v) g[v] = load(dy + v * kLanes);
      const float* end = dy + (V - 1) * kLanes;
      g[V - 1] = last >= kLanes ? load(end) : load_part(end, last);
#pragma GCC unroll 16
      for (int t = 0; t < T; ++t) {
        const VF xv = set(x[t]);
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) acc[t][v] = hn::MulAdd(xv, g[v], acc[t][v]);
      }
    }
  }
  float* out = job.out + (ky * s.kernel * s.in_channels + input) * job.out_row() + output;
#pragma GCC unroll 16
  for (int t = 0; t < T; ++t) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      float* to = out + t * job.out_row() + v * kLanes;
      store(hn::Add(load(to), acc[t][v]), to);
    }
  }
}

constexpr int kWideInputs = kVectorRegisters == 32 ? 8 : 4;
constexpr int kNarrowInputs = kVectorRegisters == 32 ? 16 : 8;

void correlate_row(const WeightJob& job, int64_t ky) {
  const int64_t inputs = job.s.kernel * job.s.in_channels;
  for (int64_t o = 0; o < job.s.out_channels; o += kChannelBlock) {
    int64_t i = 0;
    if (job.s.out_channels - o <= kLanes) {
      for (; i + kNarrowInputs <= inputs; i += kNarrowInputs) correlate<kNarrowInputs, 1>(job, ky, i, o);
      for (; i + 4 <= inputs; i += 4) correlate<4, 1>(job, ky, i, o);
      for (; i < inputs; ++i) correlate<1, 1>(job, ky, i, o);
      continue;
    }
    for (; i + kWideInputs <= inputs; i += kWideInputs) correlate<kWideInputs, 2>(job, ky, i, o);
    for (; i < inputs; ++i) correlate<1, 2>(job, ky, i, o);
  }
}

// [ky][kx][in][out_padded] of every block to [out][in][ky][kx], the blocks added in order.
void join_blocks(const WeightJob& job, const float* parts, int64_t blocks, int64_t stride, float* dweight) {
  const PixelConvShape& s = job.s;
  const int64_t taps = s.kernel * s.kernel, row = job.out_row();
  for (int64_t t = 0; t < taps; ++t) {
    for (int64_t i = 0; i < s.in_channels; ++i) {
      for (int64_t o = 0; o < s.out_channels; ++o) {
        const float* part = parts + (t * s.in_channels + i) * row + o;
        float sum = part[0];
        for (int64_t b = 1; b < blocks; ++b) sum += part[b * stride];
        dweight[(o * s.in_channels + i) * taps + t] = sum;
      }
    }
  }
}

}  // namespace

void run_pixel_conv_backward_weight(const PixelConvBackwardWeight& a, int threads) {
  const PixelConvShape& s = a.shape;
  const Bordered b{s.height, s.width, s.in_channels, s.padding, s.padding};
  const WeightJob none{s, nullptr, b.row(), nullptr, nullptr};
  const int64_t floats = s.kernel * s.kernel * s.in_channels * none.out_row();
  const int64_t blocks = std::clamp(kMostPartFloats / floats, int64_t{1}, std::min(kMostBlocks, s.batch));
  ScratchScope scratch;
  float* parts = scratch.floats(blocks * floats);
  parallel_for(threads, blocks, [&](int64_t begin, int64_t end) {
    ScratchScope own;
    float* bordered = own.floats(b.floats());
    for (int64_t block = begin; block < end; ++block) {
      float* part = parts + block * floats;
      std::memset(part, 0, static_cast<size_t>(floats) * sizeof(float));
      for (int64_t n = block * s.batch / blocks; n < (block + 1) * s.batch / blocks; ++n) {
        load_bordered(b, a.x + n * s.in_floats(), bordered);
        const WeightJob job{s, bordered, b.row(), a.dy + n * s.out_floats(), part};
        for (int64_t ky = 0; ky < s.kernel; ++ky) correlate_row(job, ky);
      }
    }
  });
  join_blocks(none, parts, blocks, floats, a.dweight);
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "furrow/tensor/kernels/pixel_conv_check.h"

namespace furrow::tensor::kernels {

HWY_EXPORT(run_pixel_conv_backward_weight);
void pixel_conv_backward_weight(const PixelConvBackwardWeight& args, int threads) {
  check_pixel_conv_shape(args.shape);
  HWY_DYNAMIC_DISPATCH(run_pixel_conv_backward_weight)(args, threads);
}

}  // namespace furrow::tensor::kernels
#endif
