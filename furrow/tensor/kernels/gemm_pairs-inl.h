// Panels and register block of bfloat16 products: two neighbours in k are one 32-bit lane, so that panels are
// laid out, and where the pairs lie together in memory packed, as those of float32.
#include "furrow/tensor/kernels/targets.h"
#if defined(FURROW_TENSOR_KERNELS_GEMM_PAIRS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FURROW_TENSOR_KERNELS_GEMM_PAIRS_INL_H_
#undef FURROW_TENSOR_KERNELS_GEMM_PAIRS_INL_H_
#else
#define FURROW_TENSOR_KERNELS_GEMM_PAIRS_INL_H_
#endif

#include "furrow/tensor/kernels/gemm_blocks-inl.h"
#include "furrow/tensor/kernels/gemm_half.h"
#include "furrow/tensor/kernels/pairs-inl.h"

#if FURROW_BF16_PAIRS
HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {

// Pairs whose two numbers lie side by side: rows of them are rows of 32-bit lanes, if they lie evenly.
inline bool lies_in_pairs(const bf16* data, int64_t stride, int64_t k) {
  return reinterpret_cast<uintptr_t>(data) % sizeof(float) == 0 && stride % 2 == 0 && k % 2 == 0;
}

// `rows` runs of k, `stride` apart, become dst[pair * step + row]; beyond the last k a pair is filled with 0.
inline void pack_runs(const bf16* src, int64_t stride, int64_t rows, int64_t left, int64_t pairs, float* dst,
                      int64_t step) {
  for (int64_t i = 0; i < rows; ++i) {
    const bf16* run = src + i * stride;
    for (int64_t p = 0; p < pairs; ++p)
      dst[p * step + i] = pair_of(run[2 * p], 2 * p + 1 < left ? run[2 * p + 1] : bf16{0});
  }
}

// pack_a of pairs: k_size numbers of k in all, of which block `k` counts pairs.
inline void pack_pairs_a(const HalfView<bf16>& a, int64_t k_size, int64_t i0, const RowPanels& panels,
                         Depth k, float* dst) {
  const bf16* src = a.data + i0 * a.row_stride + 2 * k.begin * a.col_stride;
  const int64_t left = k_size - 2 * k.begin, room = row_room(k.size);
  if (rows_of(a) == Rows::kAlong) {
    const size_t bytes = static_cast<size_t>(std::min(left, 2 * k.size)) * sizeof(bf16);
    for (int64_t i = 0; i < panels.rows; ++i, dst += room) {
      if (left < 2 * k.size) dst[k.size - 1] = 0;  // beyond the last number
      std::memcpy(dst, src + i * a.row_stride, bytes);
    }
    return;
  }
  for (int64_t p0 = 0; p0 < panels.parts; p0 += kSideBySide) {
    const int64_t p1 = std::min(p0 + kSideBySide, panels.parts);
    for (int64_t pair = 0; pair < k.size; ++pair) {
      const bf16* low = src + 2 * pair * a.col_stride;
      const bf16* high = 2 * pair + 1 < left ? low + a.col_stride : nullptr;
      for (int64_t i = p0 * kMR; i < p1 * kMR; i += 32) hwy::Prefetch(low + kRowsAhead * a.col_stride + i);
      for (int64_t p = p0; p < p1; ++p) {
        const int64_t at = panels.begin(p), rows = panels.size(p);
        zip(low + at, high == nullptr ? nullptr : high + at, rows, dst + at * room + pair * rows);
      }
    }
  }
}

// pack_b of pairs; those of block `k` that lie beyond the last number are zero.
inline void pack_pairs_b(const HalfView<bf16>& b, int64_t k_size, Depth k, int64_t j0, int64_t columns,
                         float* dst) {
  const bf16* src = b.data + 2 * k.begin * b.row_stride + j0 * b.col_stride;
  const int64_t left = k_size - 2 * k.begin, pairs = std::min(k.size, (left + 1) / 2);
  for (int64_t j = 0; j < columns && pairs < k.size; j += kNR)
    std::fill_n(dst + j * k.size + pairs * kNR, (k.size - pairs) * kNR, 0.0F);
  if (b.row_stride == 1) {
    const bool even = lies_in_pairs(src, b.col_stride, left);
    for (int64_t j = 0; j < columns; j += kNR) {
      const int64_t width = std::min<int64_t>(kNR, columns - j);
      float* panel = dst + j * k.size;
      if (even) {
        pack_b_along(reinterpret_cast<const float*>(src + j * b.col_stride), b.col_stride / 2, pairs, width,
                     panel);
        continue;
      }
      if (width < kNR) std::memset(panel, 0, static_cast<size_t>(pairs * kNR) * sizeof(float));
      pack_runs(src + j * b.col_stride, b.col_stride, width, left, pairs, panel, kNR);
    }
    return;
  }
  for (int64_t j0_group = 0; j0_group < columns; j0_group += kSideBySide * kNR) {
    const int64_t j1_group = std::min(j0_group + kSideBySide * kNR, columns);
    for (int64_t pair = 0; pair < pairs; ++pair) {
      const bf16* low = src + 2 * pair * b.row_stride;
      const bf16* high = 2 * pair + 1 < left ? low + b.row_stride : nullptr;
      for (int64_t j = j0_group; j < j1_group; j += 32) hwy::Prefetch(low + kRowsAhead * b.row_stride + j);
      for (int64_t j = j0_group; j < j1_group; j += kNR) {
        float* to = dst + j * k.size + pair * kNR;
        const int64_t width = std::min<int64_t>(kNR, columns - j);
        if (width < kNR) std::memset(to, 0, kNR * sizeof(float));
        zip(low + j, high == nullptr ? nullptr : high + j, width, to);
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();
#endif

#endif
