#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "furrow/tensor/kernels/conv2d_backward_input.cc"
#include "furrow/tensor/kernels/targets.h"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on
#include "furrow/tensor/kernels/conv2d_check.h"
#include "furrow/tensor/kernels/conv2d_tile-inl.h"
#include "furrow/tensor/kernels/parallel.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {
namespace {

// A patch is two neighbouring input positions of a row times kMaxIn input channels; kMargin zero columns
// beside the gradient let both positions share one range of taps.
constexpr int kMaxIn = kVectorRegisters == 32 ? 6 : 5;
constexpr int kPatch = 2;
constexpr int kMargin = kPatch - 1;

// [block][out_channel][ky][kx][input channel of the block]
void pack_backward_weights(const Conv2dShape& s, const float* weight, float* packed) {
  const Blocks blocks(s.in_channels, kMaxIn);
  const int64_t kk = s.kernel * s.kernel;
  for (int64_t b = 0; b < blocks.parts; ++b) {
    for (int64_t o = 0; o < s.out_channels; ++o) {
      for (int64_t tap = 0; tap < kk; ++tap) {
        for (int64_t c = blocks.begin(b); c < blocks.begin(b + 1); ++c) {
          *packed++ = weight[(o * s.in_channels + c) * kk + tap];
        }
      }
    }
  }
}

struct InputJob {
  const Conv2dShape& s;
  const float* dz;      // [out_channels][conv_height][conv_width + 2 kMargin][16]
  const float* weight;  // packed, of the block
  float* dx;            // tile, of the block's first channel
};

// Taps kx of which at least one of the positions [x, x + count) meets the gradient; the same along y.
struct Range {
  int64_t begin, end;
};
Range taps_of(int64_t x, int64_t count, const Conv2dShape& s, int64_t size) {
  return {std::max<int64_t>(0, x + s.padding - (size - 1)), std::min(s.kernel, x + count + s.padding)};
}

// dx(y, x .. x + PX) of IN channels: the sum over output channels and taps of dz(y + p - ky, x + p - kx) w.
template <int IN, int PX>
HWY_INLINE void gradient_patch(const InputJob& job, int64_t y, int64_t x) {
  const Conv2dShape& s = job.s;
  const int64_t k = s.kernel, row = (s.conv_width() + 2 * kMargin) * 16, plane = s.conv_height() * row;
  const Range ry = taps_of(y, 1, s, s.conv_height()), rx = taps_of(x, PX, s, s.conv_width());
  for (int lane = 0; lane < 16; lane += kLanes) {
    VF acc[IN][PX];
#pragma GCC unroll 8
    for (int c = 0; c < IN; ++c) {
#pragma GCC unroll 8
      for (int p = 0; p < PX; ++p) acc[c][p] = zero();
    }
    for (int64_t o = 0; o < s.out_channels; ++o) {
      for (int64_t ky = ry.begin; ky < ry.end; ++ky) {
        const float* w = job.weight + ((o * k + ky) * k + rx.begin) * IN;
        const float* dz = job.dz + o * plane + (y + s.padding - ky) * row +
                          (x + s.padding - rx.begin + kMargin) * 16 + lane;
        for (int64_t kx = rx.begin; kx < rx.end; ++kx, dz -= 16, w += IN) {
          VF d[PX];
#pragma GCC unroll 8
          for (int p = 0; p < PX; ++p) d[p] = load(dz + p * 16);
#pragma GCC unroll 8
          for (int c = 0; c < IN; ++c) {
            const VF wc = set(w[c]);
#pragma GCC unroll 8
            for (int p = 0; p < PX; ++p) acc[c][p] = hn::MulAdd(wc, d[p], acc[c][p]);
          }
        }
      }
    }
#pragma GCC unroll 8
    for (int c = 0; c < IN; ++c) {
#pragma GCC unroll 8
      for (int p = 0; p < PX; ++p)
        store(acc[c][p], job.dx + ((c * s.height + y) * s.width + x + p) * 16 + lane);
    }
  }
}

template <int IN>
HWY_NOINLINE void gradient_row(const InputJob& job, int64_t y) {
  int64_t x = 0;
  for (; x + kPatch <= job.s.width; x += kPatch) gradient_patch<IN, kPatch>(job, y, x);
  for (; x < job.s.width; ++x) gradient_patch<IN, 1>(job, y, x);
}

void gradient_row_of(int64_t in, const InputJob& job, int64_t y) {
  switch (in) {
    case 1:
      return gradient_row<1>(job, y);
    case 2:
      return gradient_row<2>(job, y);
    case 3:
      return gradient_row<3>(job, y);
    case 4:
      return gradient_row<4>(job, y);
    case 5:
      return gradient_row<5>(job, y);
    default:
      return gradient_row<kMaxIn>(job, y);
  }
}

struct TileBuffers {
  float *dy, *dz, *dx;
};

void input_tile(const Conv2dBackwardInput& args, const float* packed, int64_t tile, const TileBuffers& b) {
  const Conv2dShape& s = args.shape;
  const int64_t samples = std::min<int64_t>(16, s.batch - 16 * tile), pixels = s.out_height() * s.out_width();
  const int64_t outputs = s.out_channels * pixels, inputs = s.in_channels * s.height * s.width;
  const uint8_t* codes = args.codes ? args.codes + tile * outputs * 16 : nullptr;
  rows_to_tile(args.dy + 16 * tile * outputs, outputs, samples, outputs, b.dy);
  for (int64_t o = 0; o < s.out_channels; ++o) {
    expand_gradient(s, b.dy + o * pixels * 16, codes ? codes + o * pixels * 16 : nullptr, 0, s.conv_height(),
                    kMargin, b.dz + o * s.conv_height() * (s.conv_width() + 2 * kMargin) * 16);
  }
  const Blocks blocks(s.in_channels, kMaxIn);
  for (int64_t y = 0; y < s.height; ++y) {
    for (int64_t i = 0; i < blocks.parts; ++i) {
      const int64_t c = blocks.begin(i);
      const float* weight = packed + c * s.out_channels * s.kernel * s.kernel;
      gradient_row_of(blocks.size(i), {s, b.dz, weight, b.dx + c * s.height * s.width * 16}, y);
    }
  }
  tile_to_rows(b.dx, inputs, samples, args.dx + 16 * tile * inputs, inputs);
}

}  // namespace

void run_conv2d_backward_input(const Conv2dBackwardInput& args, int threads) {
  const Conv2dShape& s = args.shape;
  ScratchScope scratch;
  float* packed = scratch.floats(s.weight_size());
  pack_backward_weights(s, args.weight, packed);
  parallel_for(threads, s.tiles(), [&](int64_t begin, int64_t end) {
    ScratchScope own;
    const TileBuffers buffers{
        own.floats(s.out_channels * s.out_height() * s.out_width() * 16),
        own.floats(s.out_channels * s.conv_height() * (s.conv_width() + 2 * kMargin) * 16),
        own.floats(s.in_channels * s.height * s.width * 16)};
    for (int64_t tile = begin; tile < end; ++tile) input_tile(args, packed, tile, buffers);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace furrow::tensor::kernels {

HWY_EXPORT(run_conv2d_backward_input);
void conv2d_backward_input(const Conv2dBackwardInput& args, int threads) {
  check_conv2d_shape(args.shape);
  HWY_DYNAMIC_DISPATCH(run_conv2d_backward_input)(args, threads);
}

}  // namespace furrow::tensor::kernels
#endif
