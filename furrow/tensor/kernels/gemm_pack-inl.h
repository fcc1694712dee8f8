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

// Floats beyond the packed rows that pack_a may overwrite.
constexpr int64_t kPackSlack = 16;
static_assert(kMR <= kLanes || kMR % kLanes == 0, "a vector that writes past its panel must be the only one");
constexpr int64_t kPanelVectors = (kMR + kLanes - 1) / kLanes;

// A panel of rows that lie along k, dst[k * rows + i].  Where that many rows can be read a whole vector of
// them is moved: what it writes too much is overwritten by the next k, by the next panel, or is slack.
inline void pack_panel(const float* src, int64_t stride, int64_t rows, [[maybe_unused]] int64_t readable,
                       int64_t depth, float* dst) {
  int64_t k = 0;
#if HWY_TARGET != HWY_SCALAR
  for (; rows == kMR && readable >= kPanelVectors * kLanes && k + 4 <= depth; k += 4) {
    for (int64_t i = 0; i < rows; i += kLanes)
      transpose_lanes(src + i * stride + k, stride, dst + k * rows + i, rows);
  }
#endif
  if (k < depth) transpose_block(src + k, stride, rows, depth - k, dst + k * rows, rows);
}

// The same for columns that lie along the rows: one k of all panels at a time, so that the source is read in
// order.
inline void pack_across(const float* src, int64_t stride, const RowPanels& panels, int64_t depth,
                        float* dst) {
  for (int64_t k = 0; k < depth; ++k, src += stride) {
    for (int64_t p = 0; p < panels.parts; ++p) {
      const int64_t rows = panels.size(p), at = panels.begin(p);
      float* to = dst + at * depth + k * rows;
      if (k + 1 < depth && rows == kMR && panels.rows - at >= kPanelVectors * kLanes) {
        for (int64_t i = 0; i < rows; i += kLanes) store(load(src + at + i), to + i);
      } else {
        sweep(0, rows,
              [&](int64_t i, auto access) HWY_ATTR { access.store(access.load(src + at + i), to + i); });
      }
    }
  }
}

// Rows [i0, i0 + panels.rows) of A: panel p at dst + panels.begin(p) * depth, there [k][row of the panel].
// REQUIRES: kPackSlack floats behind.
inline void pack_a(const MatrixView& a, int64_t i0, const RowPanels& panels, int64_t k0, int64_t depth,
                   float* dst) {
  const float* src = a.data + i0 * a.row_stride + k0 * a.col_stride;
  if (a.col_stride != 1) return pack_across(src, a.col_stride, panels, depth, dst);
  for (int64_t p = 0; p < panels.parts; ++p) {
    const int64_t at = panels.begin(p);
    pack_panel(src + at * a.row_stride, a.row_stride, panels.size(p), panels.rows - at, depth,
               dst + at * depth);
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
