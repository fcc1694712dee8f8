#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "furrow/tensor/kernels/conv2d_forward.cc"
#include "furrow/tensor/kernels/targets.h"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on
#include "furrow/tensor/kernels/conv2d_tile-inl.h"
#include "furrow/tensor/kernels/parallel.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {
namespace {

// Output channels that a patch of four positions holds in registers.
constexpr int kMaxOut = kVectorRegisters == 32 ? 6 : 3;

// [block][in_channel][ky][kx][channel of the block]: the order in which the patch reads.
void pack_forward_weights(const Conv2dShape& s, const float* weight, float* packed) {
  const Blocks blocks(s.out_channels, kMaxOut);
  const int64_t taps = s.in_channels * s.kernel * s.kernel;
  for (int64_t b = 0; b < blocks.parts; ++b) {
    for (int64_t tap = 0; tap < taps; ++tap) {
      for (int64_t o = blocks.begin(b); o < blocks.begin(b + 1); ++o) *packed++ = weight[o * taps + tap];
    }
  }
}

struct ForwardJob {
  const Conv2dShape& s;
  const float* tile;    // padded input
  const float* weight;  // packed, of the block
  const float* bias;    // of the block, may be null
  float* y;             // output tile, of the block's first channel
  uint8_t* codes;       // as y; may be null
};

// PY x PX outputs of OUT channels, all taps, for kLanes samples.
template <int OUT, int PY, int PX>
HWY_INLINE void convolve_patch(const ForwardJob& job, const float* x, VF (&acc)[OUT][PY * PX]) {
  const PaddedTile t(job.s);
  const int64_t row = t.row(), plane = t.plane(), k = job.s.kernel;
  const float* w = job.weight;
#pragma GCC unroll 8
  for (int o = 0; o < OUT; ++o) {
    const VF start = set(job.bias ? job.bias[o] : 0.0f);
#pragma GCC unroll 8
    for (int p = 0; p < PY * PX; ++p) acc[o][p] = start;
  }
  for (int64_t c = 0; c < t.channels; ++c, x += plane) {
    const float* xr = x;
    for (int64_t ky = 0; ky < k; ++ky, xr += row) {
      const float* xt = xr;
      for (int64_t kx = 0; kx < k; ++kx, xt += 16, w += OUT) {
        VF in[PY * PX];
#pragma GCC unroll 8
        for (int p = 0; p < PY * PX; ++p) in[p] = load(xt + (p / PX) * row + (p % PX) * 16);
#pragma GCC unroll 8
        for (int o = 0; o < OUT; ++o) {
          const VF wo = set(w[o]);
#pragma GCC unroll 8
          for (int p = 0; p < PY * PX; ++p) acc[o][p] = hn::MulAdd(wo, in[p], acc[o][p]);
        }
      }
    }
  }
}

// Later value wins if greater or NaN, as in PyTorch's max pool.
HWY_INLINE void take_greater(VF v, int code, VF& best, VI& codes) {
  const MF wins = hn::Or(hn::Gt(v, best), hn::IsNaN(v));
  best = hn::IfThenElse(wins, v, best);
  codes = hn::IfThenElse(hn::RebindMask(DI(), wins), hn::Set(DI(), code), codes);
}

HWY_INLINE void finish(const ForwardJob& job, VF v, VI codes, int64_t at) {
  if (job.s.relu) {
    const MF dead = hn::Le(v, zero());
    v = hn::IfThenElse(dead, zero(), v);
    codes = hn::IfThenElse(hn::RebindMask(DI(), dead), hn::Set(DI(), kDeadCode), codes);
  }
  store(v, job.y + at);
  if (job.codes) store_codes(codes, job.codes + at);
}

template <int OUT>
HWY_NOINLINE void pooled_row(const ForwardJob& job, int64_t oy) {
  const Conv2dShape& s = job.s;
  const int64_t width = s.out_width(), plane = s.out_height() * width * 16;
  for (int64_t ox = 0; ox < width; ++ox) {
    for (int lane = 0; lane < 16; lane += kLanes) {
      VF acc[OUT][4];
      convolve_patch<OUT, 2, 2>(job, job.tile + 2 * oy * PaddedTile(s).row() + 2 * ox * 16 + lane, acc);
#pragma GCC unroll 8
      for (int o = 0; o < OUT; ++o) {
        VF best = acc[o][0];
        VI codes = hn::Zero(DI());
#pragma GCC unroll 8
        for (int p = 1; p < 4; ++p) take_greater(acc[o][p], p, best, codes);
        finish(job, best, codes, o * plane + (oy * width + ox) * 16 + lane);
      }
    }
  }
}

template <int OUT, int PX>
HWY_INLINE void plain_patch(const ForwardJob& job, int64_t oy, int64_t ox) {
  const Conv2dShape& s = job.s;
  const int64_t width = s.out_width(), plane = s.out_height() * width * 16;
  for (int lane = 0; lane < 16; lane += kLanes) {
    VF acc[OUT][PX];
    convolve_patch<OUT, 1, PX>(job, job.tile + oy * PaddedTile(s).row() + ox * 16 + lane, acc);
#pragma GCC unroll 8
    for (int o = 0; o < OUT; ++o) {
#pragma GCC unroll 8
      for (int p = 0; p < PX; ++p) {
        finish(job, acc[o][p], hn::Zero(DI()), o * plane + (oy * width + ox + p) * 16 + lane);
      }
    }
  }
}

template <int OUT>
HWY_NOINLINE void plain_row(const ForwardJob& job, int64_t oy) {
  int64_t ox = 0;
  for (; ox + 4 <= job.s.out_width(); ox += 4) plain_patch<OUT, 4>(job, oy, ox);
  for (; ox < job.s.out_width(); ++ox) plain_patch<OUT, 1>(job, oy, ox);
}

template <int OUT>
void output_row(const ForwardJob& job, int64_t oy) {
  job.s.pool ? pooled_row<OUT>(job, oy) : plain_row<OUT>(job, oy);
}

void output_row_of(int64_t out, const ForwardJob& job, int64_t oy) {
  static_assert(kMaxOut == 3 || kMaxOut == 6, "one case per size of a block");
  switch (out) {
    case 1:
      return output_row<1>(job, oy);
    case 2:
      return output_row<2>(job, oy);
    case 3:
      return output_row<3>(job, oy);
#if HWY_TARGET != HWY_AVX2
    case 4:
      return output_row<4>(job, oy);
    case 5:
      return output_row<5>(job, oy);
    default:
      return output_row<6>(job, oy);
#endif
  }
}

void forward_tile(const Conv2dForward& args, const float* packed, int64_t tile, float* x, float* y) {
  const Conv2dShape& s = args.shape;
  const int64_t samples = std::min<int64_t>(16, s.batch - 16 * tile);
  const int64_t plane = s.out_height() * s.out_width() * 16, taps = s.in_channels * s.kernel * s.kernel;
  const int64_t outputs = s.out_channels * s.out_height() * s.out_width();
  load_padded_tile(s, args.x + 16 * tile * s.in_channels * s.height * s.width, samples, x);
  uint8_t* codes = args.codes ? args.codes + tile * outputs * 16 : nullptr;
  const Blocks blocks(s.out_channels, kMaxOut);
  for (int64_t oy = 0; oy < s.out_height(); ++oy) {
    for (int64_t b = 0; b < blocks.parts; ++b) {
      const int64_t o = blocks.begin(b);
      const ForwardJob job{s,
                           x,
                           packed + o * taps,
                           args.bias ? args.bias + o : nullptr,
                           y + o * plane,
                           codes ? codes + o * plane : nullptr};
      output_row_of(blocks.size(b), job, oy);
    }
  }
  tile_to_rows(y, outputs, samples, args.y + 16 * tile * outputs, outputs);
}

}  // namespace

void run_conv2d_forward(const Conv2dForward& args, int threads) {
  const Conv2dShape& s = args.shape;
  ScratchScope scratch;
  float* packed = scratch.floats(s.weight_size());
  pack_forward_weights(s, args.weight, packed);
  parallel_for(threads, s.tiles(), [&](int64_t begin, int64_t end) {
    ScratchScope own;
    float* x = own.floats(PaddedTile(s).floats());
    float* y = own.floats(s.out_channels * s.out_height() * s.out_width() * 16);
    for (int64_t tile = begin; tile < end; ++tile) forward_tile(args, packed, tile, x, y);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <fmt/format.h>

#include "furrow/base/error.h"
#include "furrow/tensor/kernels/conv2d_check.h"

namespace furrow::tensor::kernels {

void check_conv2d_shape(const Conv2dShape& s) {
  const bool sizes = s.batch >= 1 && s.in_channels >= 1 && s.height >= 1 && s.width >= 1 &&
                     s.out_channels >= 1 && s.kernel >= 1 && s.padding >= 0 && s.padding < s.kernel;
  if (sizes && s.conv_height() >= 1 && s.conv_width() >= 1 && s.out_height() >= 1 && s.out_width() >= 1)
    return;
  throw Error(
      ErrorCode::kInvalidArgument,
      fmt::format(
          "convolution of {} samples [{}, {}, {}] with {} kernels of {}x{}, padding {}{}: the sizes must "
          "be positive, padding smaller than the kernel, and the output not empty",
          s.batch, s.in_channels, s.height, s.width, s.out_channels, s.kernel, s.kernel, s.padding,
          s.pool ? ", 2x2 pool" : ""));
}

HWY_EXPORT(run_conv2d_forward);
void conv2d_forward(const Conv2dForward& args, int threads) {
  check_conv2d_shape(args.shape);
  HWY_DYNAMIC_DISPATCH(run_conv2d_forward)(args, threads);
}

}  // namespace furrow::tensor::kernels
#endif
