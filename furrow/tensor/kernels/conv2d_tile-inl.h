// Pieces that the three convolutions share: the tile of 16 samples, the split into blocks, packed weights.
#include "furrow/tensor/kernels/targets.h"
#if defined(FURROW_TENSOR_KERNELS_CONV2D_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FURROW_TENSOR_KERNELS_CONV2D_TILE_INL_H_
#undef FURROW_TENSOR_KERNELS_CONV2D_TILE_INL_H_
#else
#define FURROW_TENSOR_KERNELS_CONV2D_TILE_INL_H_
#endif

#include <algorithm>
#include <cstring>

#include "furrow/tensor/kernels/blocks.h"
#include "furrow/tensor/kernels/conv2d.h"
#include "furrow/tensor/kernels/scratch.h"
#include "furrow/tensor/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {

constexpr uint8_t kDeadCode = 4;  // the ReLU cut it: no gradient

// The input tile with its zero border: [channel][height + 2p][width + 2p][16].
struct PaddedTile {
  int64_t channels, height, width, padding;
  explicit PaddedTile(const Conv2dShape& s)
      : channels(s.in_channels),
        height(s.height + 2 * s.padding),
        width(s.width + 2 * s.padding),
        padding(s.padding) {}
  int64_t row() const { return width * 16; }
  int64_t plane() const { return height * row(); }
  int64_t floats() const { return channels * plane(); }
};

// n elements of `samples` rows (stride apart) to [n][16]; lanes of absent samples are zero.
inline void rows_to_tile(const float* src, int64_t stride, int64_t samples, int64_t n, float* dst) {
  if (samples < 16) std::memset(dst, 0, static_cast<size_t>(n) * 16 * sizeof(float));
  transpose_block(src, stride, samples, n, dst, 16);
}

inline void tile_to_rows(const float* src, int64_t n, int64_t samples, float* dst, int64_t stride) {
  transpose_block(src, 16, n, samples, dst, stride);
}

inline void load_padded_tile(const Conv2dShape& s, const float* x, int64_t samples, float* tile) {
  const PaddedTile t(s);
  const int64_t stride = s.in_channels * s.height * s.width;
  if (s.padding == 0) return rows_to_tile(x, stride, samples, stride, tile);
  std::memset(tile, 0, static_cast<size_t>(t.floats()) * sizeof(float));
  for (int64_t c = 0; c < s.in_channels; ++c) {
    for (int64_t y = 0; y < s.height; ++y) {
      float* dst = tile + c * t.plane() + (y + t.padding) * t.row() + t.padding * 16;
      rows_to_tile(x + (c * s.height + y) * s.width, stride, samples, s.width, dst);
    }
  }
}

HWY_INLINE void store_codes(VI codes, uint8_t* p) {
  const hn::Rebind<uint8_t, DI> d8;
  hn::StoreU(hn::DemoteTo(d8, codes), d8, p);
}

HWY_INLINE VI load_codes(const uint8_t* p) {
  const hn::Rebind<uint8_t, DI> d8;
  return hn::PromoteTo(DI(), hn::LoadU(d8, p));
}

// Gradient rows [row0, row0 + rows) of one output channel at the resolution of the convolution, [row][x][16]
// with `margin` zero columns on both sides, from the gradient and the codes of the fused output.
inline void expand_gradient(const Conv2dShape& s, const float* dy, const uint8_t* codes, int64_t row0,
                            int64_t rows, int64_t margin, float* dz) {
  const int64_t width = s.conv_width(), stride = (width + 2 * margin) * 16;
  const int64_t step = s.pool ? 2 : 1, used = s.out_width() * step;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t y = row0 + r, oy = y / step;
    float* out = dz + r * stride;
    std::memset(out, 0, static_cast<size_t>(margin) * 64);
    std::memset(out + (margin + used) * 16, 0, static_cast<size_t>(width - used + margin) * 64);
    out += margin * 16;
    if (oy >= s.out_height()) {
      std::memset(out, 0, static_cast<size_t>(width) * 64);
      continue;
    }
    const int64_t from = oy * s.out_width() * 16;
    if (codes == nullptr) {
      std::memcpy(out, dy + from, static_cast<size_t>(width) * 64);
      continue;
    }
    const int first = s.pool ? static_cast<int>(y % 2) * 2 : 0;
    for (int64_t ox = 0; ox < s.out_width(); ++ox) {
      for (int lane = 0; lane < 16; lane += kLanes) {
        const VF d = load(dy + from + ox * 16 + lane);
        const VI c = load_codes(codes + from + ox * 16 + lane);
        for (int b = 0; b < step; ++b) {
          const MF here = hn::RebindMask(DF(), hn::Eq(c, hn::Set(DI(), first + b)));
          store(hn::IfThenElseZero(here, d), out + (ox * step + b) * 16 + lane);
        }
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#endif
