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

// Rows cut into panels of `height`, the last one smaller.  `readable` rows, and no fewer than `rows`, may be
// read.
struct RowPanels {
  int64_t rows, height, parts, readable;
  explicit RowPanels(int64_t rows, int64_t height = kMR, int64_t readable = 0)
      : rows(rows), height(height), parts((rows + height - 1) / height), readable(std::max(rows, readable)) {}
  int64_t begin(int64_t panel) const { return std::min(panel * height, rows); }
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
  if (rows == kMR && readable >= kPanelVectors * kLanes) {
    for (int64_t i = 0; i < rows; i += kLanes)
      transpose_strip(src + i * stride, stride, depth, dst + i, rows, kMR);
    k = depth / 4 * 4;
  }
#endif
  if (k < depth) transpose_block(src + k, stride, rows, depth - k, dst + k * rows, rows);
}

// Panels written side by side from rows that lie across them: long runs are read, and the targets, which lie
// a multiple of 4 KiB apart, still fit the ways of a first-level cache.
constexpr int64_t kSideBySide = 4;
constexpr int64_t kRowsAhead = 8;  // fetched before they are needed

// The same for rows that lie across k: one k of a few panels at a time.
inline void pack_across(const float* src, int64_t stride, const RowPanels& panels, int64_t depth,
                        float* dst) {
  // Panels whose vectors may be read whole.
  const int64_t within = std::max<int64_t>(0, panels.readable - kPanelVectors * kLanes + kMR) / kMR;
  const int64_t whole = std::min(within, panels.rows / kMR);
  for (int64_t p0 = 0; p0 < panels.parts; p0 += kSideBySide) {
    const int64_t p1 = std::min(p0 + kSideBySide, panels.parts), full = std::min(p1, whole);
    for (int64_t k = 0; k < depth; ++k) {
      const float* from = src + k * stride;
      for (int64_t i = p0 * kMR; i < p1 * kMR; i += 16) hwy::Prefetch(from + kRowsAhead * stride + i);
      int64_t p = p0;
      for (; p < full && k + 1 < depth; ++p) {
        float* to = dst + p * kMR * depth + k * kMR;
        for (int64_t i = 0; i < kMR; i += kLanes) store(load(from + p * kMR + i), to + i);
      }
      for (; p < p1; ++p) {
        const int64_t rows = panels.size(p), at = panels.begin(p);
        float* to = dst + at * depth + k * rows;
        sweep(0, rows,
              [&](int64_t i, auto access) HWY_ATTR { access.store(access.load(from + at + i), to + i); });
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
    pack_panel(src + at * a.row_stride, a.row_stride, panels.size(p), panels.readable - at, depth,
               dst + at * depth);
  }
}

// A panel of columns that lie along k, dst[k * kNR + j].
inline void pack_b_along(const float* src, int64_t stride, int64_t depth, int64_t columns, float* dst) {
  if (columns < kNR) std::memset(dst, 0, static_cast<size_t>(depth * kNR) * sizeof(float));
  transpose_block(src, stride, columns, depth, dst, kNR);
}

// Panels of columns from rows that lie across k, at most kSideBySide of them.
inline void pack_b_across(const float* src, int64_t stride, int64_t depth, int64_t columns, float* dst) {
  for (int64_t k = 0; k < depth; ++k, src += stride) {
    for (int64_t i = 0; i < columns; i += 16) hwy::Prefetch(src + kRowsAhead * stride + i);
    int64_t j = 0;
    for (; j + kNR <= columns; j += kNR) {
      float* to = dst + j * depth + k * kNR;
      for (int v = 0; v < kNR; v += kLanes) store(load(src + j + v), to + v);
    }
    if (j == columns) continue;
    for (int v = 0; v < kNR; v += kLanes) {
      const int64_t lanes = std::min<int64_t>(kLanes, std::max<int64_t>(0, columns - j - v));
      store(load_part(src + j + v, lanes), dst + j * depth + k * kNR + v);
    }
  }
}

// Columns [j0, j0 + columns) of B: panel p at dst + p * kNR * depth, there [k][column of the panel]; columns
// beyond the last are zero.
inline void pack_b(const MatrixView& b, int64_t k0, int64_t depth, int64_t j0, int64_t columns, float* dst) {
  const float* src = b.data + k0 * b.row_stride + j0 * b.col_stride;
  const int64_t step = b.col_stride == 1 ? kSideBySide * kNR : kNR;
  for (int64_t j = 0; j < columns; j += step) {
    const int64_t width = std::min(step, columns - j);
    if (b.col_stride == 1) {
      pack_b_across(src + j, b.row_stride, depth, width, dst + j * depth);
    } else {
      pack_b_along(src + j * b.col_stride, b.col_stride, depth, width, dst + j * depth);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#endif
