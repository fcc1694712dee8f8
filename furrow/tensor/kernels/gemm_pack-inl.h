// Operands rearranged for the register block: panels of rows of A and of columns of B, k outermost.
#include "furrow/tensor/kernels/targets.h"
#if defined(FURROW_TENSOR_KERNELS_GEMM_PACK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FURROW_TENSOR_KERNELS_GEMM_PACK_INL_H_
#undef FURROW_TENSOR_KERNELS_GEMM_PACK_INL_H_
#else
#define FURROW_TENSOR_KERNELS_GEMM_PACK_INL_H_
#endif

#include <algorithm>

#include "furrow/tensor/kernels/gemm.h"
#include "furrow/tensor/kernels/gemm_kernel-inl.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {

// Rows cut into panels of kMR, the last one smaller.
struct RowPanels {
  int64_t rows, parts;
  explicit RowPanels(int64_t rows) : rows(rows), parts((rows + kMR - 1) / kMR) {}
  int64_t begin(int64_t panel) const { return std::min(panel * kMR, rows); }
  int64_t size(int64_t panel) const { return begin(panel + 1) - begin(panel); }
};

// Rows [i0, i0 + panels.rows) of A: panel p at dst + panels.begin(p) * depth, there [k][row of the panel].
inline void pack_a(const MatrixView& a, int64_t i0, const RowPanels& panels, int64_t k0, int64_t depth,
                   float* dst) {
  const float* src = a.data + i0 * a.row_stride + k0 * a.col_stride;
  if (a.col_stride == 1) {
    for (int64_t p = 0; p < panels.parts; ++p) {
      const int64_t rows = panels.size(p), at = panels.begin(p);
      transpose_block(src + at * a.row_stride, a.row_stride, rows, depth, dst + at * depth, rows);
    }
    return;
  }
  for (int64_t k = 0; k < depth; ++k, src += a.col_stride) {
    for (int64_t p = 0; p < panels.parts; ++p) {
      const int64_t rows = panels.size(p), at = panels.begin(p);
      float* to = dst + at * depth + k * rows;
      sweep(0, rows,
            [&](int64_t i, auto access) HWY_ATTR { access.store(access.load(src + at + i), to + i); });
    }
  }
}

// dst[k * kNR + j] = B(k, j) for a panel of columns; columns beyond `columns` are zero.
inline void pack_b(const MatrixView& b, int64_t k0, int64_t depth, int64_t j0, int64_t columns, float* dst) {
  const float* src = b.data + k0 * b.row_stride + j0 * b.col_stride;
  if (b.col_stride == 1 && columns == kNR) {
    for (int64_t k = 0; k < depth; ++k, src += b.row_stride, dst += kNR) {
      for (int j = 0; j < kNR; j += kLanes) store(load(src + j), dst + j);
    }
    return;
  }
  if (columns < kNR) std::memset(dst, 0, static_cast<size_t>(depth * kNR) * sizeof(float));
  if (b.col_stride == 1) {
    for (int64_t k = 0; k < depth; ++k, src += b.row_stride, dst += kNR) {
      std::memcpy(dst, src, static_cast<size_t>(columns) * sizeof(float));
    }
    return;
  }
  transpose_block(src, b.col_stride, columns, depth, dst, kNR);
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#endif
