#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "furrow/tensor/kernels/conv2d_backward_weight.cc"
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

// A block of accumulators: kMaxOut output channels times up to kMaxTaps neighbouring taps of a kernel row.
constexpr int kMaxOut = kVectorRegisters == 32 ? 5 : 2;
constexpr int kMaxTaps = 5;
constexpr int64_t kStripFloats = 4096;  // gradient rows that stay in the first cache, per block of channels

struct WeightJob {
  const Conv2dShape& s;
  const float* dz;  // [OUT][rows][conv_width][16]
  int64_t rows;
  const float* x;      // input tile at (channel, first row + ky, kx)
  float* sums;         // at (first channel, in_channel, ky, kx): [tap][16], channels `taps` rows apart
  int64_t out_stride;  // floats between two output channels in sums
};

// sums[o][t] += dz[o] . x shifted by t, over a strip of rows.
template <int OUT, int TAPS>
HWY_NOINLINE void accumulate_strip(const WeightJob& job) {
  const int64_t width = job.s.conv_width(), plane = job.rows * width * 16, x_row = PaddedTile(job.s).row();
  for (int lane = 0; lane < 16; lane += kLanes) {
    VF acc[OUT][TAPS];
#pragma GCC unroll 8
    for (int o = 0; o < OUT; ++o) {
#pragma GCC unroll 8
      for (int t = 0; t < TAPS; ++t) acc[o][t] = load(job.sums + o * job.out_stride + t * 16 + lane);
    }
    for (int64_t r = 0; r < job.rows; ++r) {
      const float* dz = job.dz + r * width * 16 + lane;
      const float* x = job.x + r * x_row + lane;
      for (int64_t i = 0; i < width; ++i, dz += 16, x += 16) {
        VF d[OUT];
#pragma GCC unroll 8
        for (int o = 0; o < OUT; ++o) d[o] = load(dz + o * plane);
#pragma GCC unroll 8
        for (int t = 0; t < TAPS; ++t) {
          const VF in = load(x + t * 16);
#pragma GCC unroll 8
          for (int o = 0; o < OUT; ++o) acc[o][t] = hn::MulAdd(d[o], in, acc[o][t]);
        }
      }
    }
#pragma GCC unroll 8
    for (int o = 0; o < OUT; ++o) {
#pragma GCC unroll 8
      for (int t = 0; t < TAPS; ++t) store(acc[o][t], job.sums + o * job.out_stride + t * 16 + lane);
    }
  }
}

using StripFn = void (*)(const WeightJob&);
template <int OUT>
constexpr StripFn kStripOf[kMaxTaps] = {&accumulate_strip<OUT, 1>, &accumulate_strip<OUT, 2>,
                                        &accumulate_strip<OUT, 3>, &accumulate_strip<OUT, 4>,
                                        &accumulate_strip<OUT, 5>};

StripFn strip_of(int64_t out, int64_t taps) {
  switch (out) {
    case 1:
      return kStripOf<1>[taps - 1];
#if HWY_TARGET == HWY_AVX2
    default:
      return kStripOf<2>[taps - 1];
#else
    case 2:
      return kStripOf<2>[taps - 1];
    case 3:
      return kStripOf<3>[taps - 1];
    case 4:
      return kStripOf<4>[taps - 1];
    default:
      return kStripOf<5>[taps - 1];
#endif
  }
}

struct TileBuffers {
  float* x;     // padded input tile
  float* dy;    // [out_channels][out_height][out_width][16]
  float* dz;    // a strip of a block
  float* sums;  // [kMaxOut][in_channels][k][k][16]
};

// All weights of output channels [o, o + out): dz strip by strip, each used for every input channel and tap.
void block_sums(const Conv2dShape& s, const uint8_t* codes, int64_t o, int64_t out, const TileBuffers& b) {
  const PaddedTile t(s);
  const int64_t k = s.kernel, width = s.conv_width(), plane = s.out_height() * s.out_width() * 16;
  const int64_t out_stride = s.in_channels * k * k * 16;
  const int64_t even = std::max<int64_t>(2, kStripFloats / (out * width * 16) / 2 * 2);
  const Blocks taps(k, kMaxTaps);
  std::memset(b.sums, 0, static_cast<size_t>(out * out_stride) * sizeof(float));
  for (int64_t row = 0; row < s.conv_height(); row += even) {
    const int64_t rows = std::min(even, s.conv_height() - row);
    for (int64_t i = 0; i < out; ++i) {
      expand_gradient(s, b.dy + (o + i) * plane, codes ? codes + (o + i) * plane : nullptr, row, rows, 0,
                      b.dz + i * rows * width * 16);
    }
    for (int64_t c = 0; c < s.in_channels; ++c) {
      for (int64_t ky = 0; ky < k; ++ky) {
        for (int64_t part = 0; part < taps.parts; ++part) {
          const int64_t kx = taps.begin(part);
          const float* x = b.x + c * t.plane() + (row + ky) * t.row() + kx * 16;
          strip_of(out,
                   taps.size(part))({s, b.dz, rows, x, b.sums + ((c * k + ky) * k + kx) * 16, out_stride});
        }
      }
    }
  }
}

// The bias gradient of one channel of a tile.
float bias_sum(const Conv2dShape& s, const float* dy, const uint8_t* codes) {
  F16 sum = set16(0);
  for (int64_t i = 0; i < s.out_height() * s.out_width() * 16; i += 16) {
    for (int p = 0; p < kParts; ++p) {
      const int64_t at = i + p * kLanes;
      VF d = load(dy + at);
      if (codes) {
        const MF dead = hn::RebindMask(DF(), hn::Eq(load_codes(codes + at), hn::Set(DI(), kDeadCode)));
        d = hn::IfThenElse(dead, zero(), d);
      }
      sum.v[p] = hn::Add(sum.v[p], d);
    }
  }
  return sum16(sum);
}

// dweight then dbias of one tile.
void tile_gradient(const Conv2dBackwardWeight& args, int64_t tile, const TileBuffers& b, float* gradient) {
  const Conv2dShape& s = args.shape;
  const int64_t samples = std::min<int64_t>(16, s.batch - 16 * tile), pixels = s.out_height() * s.out_width();
  const int64_t outputs = s.out_channels * pixels, taps = s.in_channels * s.kernel * s.kernel;
  const uint8_t* codes = args.codes ? args.codes + tile * outputs * 16 : nullptr;
  rows_to_tile(args.dy + 16 * tile * outputs, outputs, samples, outputs, b.dy);
  if (args.dweight) {
    load_padded_tile(s, args.x + 16 * tile * s.in_channels * s.height * s.width, samples, b.x);
    const Blocks blocks(s.out_channels, kMaxOut);
    for (int64_t i = 0; i < blocks.parts; ++i) {
      block_sums(s, codes, blocks.begin(i), blocks.size(i), b);
      sum16_rows(b.sums, blocks.size(i) * taps, gradient + blocks.begin(i) * taps);
    }
  }
  for (int64_t o = 0; o < s.out_channels && args.dbias; ++o) {
    gradient[s.weight_size() + o] =
        bias_sum(s, b.dy + o * pixels * 16, codes ? codes + o * pixels * 16 : nullptr);
  }
}

TileBuffers take_buffers(const Conv2dShape& s, ScratchScope& scratch) {
  const int64_t strip = std::max(kStripFloats, 2 * kMaxOut * s.conv_width() * 16);
  return {scratch.floats(PaddedTile(s).floats()),
          scratch.floats(s.out_channels * s.out_height() * s.out_width() * 16), scratch.floats(strip),
          scratch.floats(kMaxOut * s.in_channels * s.kernel * s.kernel * 16)};
}

// out[i] = parts[0][i] + parts[1][i] + ..., in that order.
void add_in_order(const float* parts, int64_t count, int64_t stride, int64_t n, float* out) {
  sweep(0, n, [&](int64_t i, auto at) {
    VF sum = at.load(parts + i);
    for (int64_t p = 1; p < count; ++p) sum = hn::Add(sum, at.load(parts + p * stride + i));
    at.store(sum, out + i);
  });
}

}  // namespace

void run_conv2d_backward_weight(const Conv2dBackwardWeight& args, int threads) {
  const Conv2dShape& s = args.shape;
  const int64_t stride = s.weight_size() + s.out_channels;
  ScratchScope scratch;
  float* parts = scratch.floats(s.tiles() * stride);
  parallel_for(threads, s.tiles(), [&](int64_t begin, int64_t end) {
    ScratchScope own;
    const TileBuffers buffers = take_buffers(s, own);
    for (int64_t tile = begin; tile < end; ++tile) tile_gradient(args, tile, buffers, parts + tile * stride);
  });
  if (args.dweight) add_in_order(parts, s.tiles(), stride, s.weight_size(), args.dweight);
  if (args.dbias) add_in_order(parts + s.weight_size(), s.tiles(), stride, s.out_channels, args.dbias);
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace furrow::tensor::kernels {

HWY_EXPORT(run_conv2d_backward_weight);
void conv2d_backward_weight(const Conv2dBackwardWeight& args, int threads) {
  check_conv2d_shape(args.shape);
  HWY_DYNAMIC_DISPATCH(run_conv2d_backward_weight)(args, threads);
}

}  // namespace furrow::tensor::kernels
#endif
