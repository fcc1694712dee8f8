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

#define FURROW_BF16_ATTR __attribute__((target("avx512bf16")))

// As micro_kernel of gemm_kernel-inl.h, a lane holding two neighbours in k.
template <int MR, bool RESUME>
FURROW_BF16_ATTR HWY_NOINLINE void pair_kernel(const float* HWY_RESTRICT a, const float* HWY_RESTRICT b,
                                               int64_t k, float* HWY_RESTRICT c, int64_t ldc) {
  __m512 acc[MR][kNV];
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kNV; ++j)
      acc[i][j] = RESUME ? _mm512_loadu_ps(c + i * ldc + j * kLanes) : _mm512_setzero_ps();
  }
  for (; k > 0; --k, a += MR, b += kNR) {
    __m512bh bk[kNV];
#pragma GCC unroll 4
    for (int j = 0; j < kNV; ++j) bk[j] = (__m512bh)_mm512_loadu_ps(b + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
      const auto ai = (__m512bh)_mm512_set1_ps(a[i]);
#pragma GCC unroll 4
      for (int j = 0; j < kNV; ++j) acc[i][j] = _mm512_dpbf16_ps(acc[i][j], ai, bk[j]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kNV; ++j) _mm512_storeu_ps(c + i * ldc + j * kLanes, acc[i][j]);
  }
}

template <bool RESUME>
MicroKernel pair_kernel_in_table(int64_t rows) {
  static constexpr MicroKernel kTable[] = {
      &pair_kernel<1, RESUME>,  &pair_kernel<2, RESUME>,  &pair_kernel<3, RESUME>,  &pair_kernel<4, RESUME>,
      &pair_kernel<5, RESUME>,  &pair_kernel<6, RESUME>,  &pair_kernel<7, RESUME>,  &pair_kernel<8, RESUME>,
      &pair_kernel<9, RESUME>,  &pair_kernel<10, RESUME>, &pair_kernel<11, RESUME>, &pair_kernel<12, RESUME>,
      &pair_kernel<13, RESUME>, &pair_kernel<14, RESUME>,
  };
  static_assert(sizeof(kTable) / sizeof(kTable[0]) == kMR);
  return kTable[rows - 1];
}

inline MicroKernel pair_kernel_of(int64_t rows, bool resume) {
  return resume ? pair_kernel_in_table<true>(rows) : pair_kernel_in_table<false>(rows);
}

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
  const int64_t left = k_size - 2 * k.begin;
  if (a.col_stride == 1) {
    const bool even = lies_in_pairs(src, a.row_stride, left);
    const auto* lanes = reinterpret_cast<const float*>(src);
    for (int64_t p = 0; p < panels.parts; ++p) {
      const int64_t at = panels.begin(p), rows = panels.size(p);
      if (even) {
        pack_panel(lanes + at * (a.row_stride / 2), a.row_stride / 2, rows, panels.readable - at, k.size,
                   dst + at * k.size);
      } else {
        pack_runs(src + at * a.row_stride, a.row_stride, rows, left, k.size, dst + at * k.size, rows);
      }
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
        zip(low + at, high == nullptr ? nullptr : high + at, rows, dst + at * k.size + pair * rows);
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
