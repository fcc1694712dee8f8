// Panels and register block of bfloat16 products on tiles: 32 x 32 outputs in four registers.  B is packed as
// for pairs.
#include "furrow/tensor/kernels/targets.h"
#if defined(FURROW_TENSOR_KERNELS_GEMM_TILES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FURROW_TENSOR_KERNELS_GEMM_TILES_INL_H_
#undef FURROW_TENSOR_KERNELS_GEMM_TILES_INL_H_
#else
#define FURROW_TENSOR_KERNELS_GEMM_TILES_INL_H_
#endif

#include "furrow/tensor/kernels/gemm_pairs-inl.h"
#include "furrow/tensor/kernels/tiles-inl.h"

#if FURROW_BF16_PAIRS
HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {

constexpr int64_t kTile = kTileRows * kTilePairs;
static_assert(kNR == 2 * kTilePairs, "a packed row of B is a row of two tiles");

template <class TileRegisters>
struct TileForm {
  using Registers = TileRegisters;
  static constexpr int64_t kRows = 2 * kTileRows, kGrain = kTilePairs;
  static_assert(kTileRows == kTilePairs, "one grain for rows and pairs");
};

// At most 16 rows of at most 32 numbers become one tile, dst[row * 16 + pair]; what is missing is zero.
inline void pack_tile(const HalfView<bf16>& a, int64_t rows, int64_t numbers, float* dst) {
  if (rows < kTileRows || numbers < 2 * kTilePairs) std::fill_n(dst, kTile, 0.0F);
  if (a.col_stride == 1) {
    const size_t bytes = static_cast<size_t>(numbers) * sizeof(bf16);
    for (int64_t i = 0; i < rows; ++i) std::memcpy(dst + i * kTilePairs, a.data + i * a.row_stride, bytes);
    return;
  }
  alignas(64) float across[kTile];
  const int64_t pairs = (numbers + 1) / 2;
  for (int64_t p = 0; p < pairs; ++p) {
    const bf16* low = a.data + 2 * p * a.col_stride;
    zip(low, 2 * p + 1 < numbers ? low + a.col_stride : nullptr, rows, across + p * kTileRows);
  }
  transpose_block(across, kTileRows, pairs, rows, dst, kTilePairs);
}

// Rows [i0, i0 + rows) of A in strips of 16, one after the other; in a strip its tiles in the order of k.
// k_size numbers of k in all, of which block `k` counts pairs, a multiple of 16.
inline void pack_tiles_a(const HalfView<bf16>& a, int64_t k_size, int64_t i0, int64_t rows, Depth k,
                         float* dst) {
  for (int64_t i = 0; i < rows; i += 2 * kTileRows) {
    for (int64_t p = 0; p < k.size; p += kTilePairs) {
      const int64_t at = 2 * (k.begin + p), numbers = std::min(2 * kTilePairs, k_size - at);
      // The two strips of a panel in turn: where rows lie across k they share lines of the cache.
      for (int64_t r = i; r < std::min(i + 2 * kTileRows, rows); r += kTileRows) {
        const HalfView<bf16> from{a.data + (i0 + r) * a.row_stride + at * a.col_stride, a.row_stride,
                                  a.col_stride};
        pack_tile(from, std::min(kTileRows, rows - r), numbers, dst + r * k.size + p * kTileRows);
      }
    }
  }
}

// What a register block is computed from: one strip of A or two, a panel of B, `depth` pairs of each.
struct TilePanels {
  const float* a;
  const float* b;
  bool two;
  int64_t depth;
};

// C[16 or 32, 32] = (resume ? C : 0) + A B.
template <class Registers>
HWY_NOINLINE void tile_kernel(Registers& tiles, TilePanels panels, bool resume, float* c, int64_t ldc) {
  float* below = c + kTileRows * ldc;
  if (resume) {
    tiles.template load<0>(c, ldc);
    tiles.template load<1>(c + kTilePairs, ldc);
    if (panels.two) tiles.template load<2>(below, ldc);
    if (panels.two) tiles.template load<3>(below + kTilePairs, ldc);
  } else {
    tiles.template zero<0>();
    tiles.template zero<1>();
    tiles.template zero<2>();
    tiles.template zero<3>();
  }
  for (int64_t p = 0; p < panels.depth; p += kTilePairs) {
    const float* a = panels.a + p * kTileRows;
    const float* b = panels.b + p * kNR;
    tiles.template load<4>(a, kTilePairs);
    tiles.template load<6>(b, kNR);
    tiles.template load<7>(b + kTilePairs, kNR);
    tiles.template add_products<0, 4, 6>();
    tiles.template add_products<1, 4, 7>();
    if (!panels.two) continue;
    tiles.template load<5>(a + kTileRows * panels.depth, kTilePairs);
    tiles.template add_products<2, 5, 6>();
    tiles.template add_products<3, 5, 7>();
  }
  tiles.template store<0>(c, ldc);
  tiles.template store<1>(c + kTilePairs, ldc);
  if (panels.two) tiles.template store<2>(below, ldc);
  if (panels.two) tiles.template store<3>(below + kTilePairs, ldc);
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();
#endif

#endif
