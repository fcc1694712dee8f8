// Operands copied for the register block where it does not read them where they lie: panels of rows of A and
// of columns of B.
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
#include "furrow/tensor/kernels/scratch.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {

// A block of k.
struct Depth {
  int64_t begin, size;
};

// Rows cut into panels of `height`, the last one smaller.  `readable` rows, and no fewer than `rows`, may be
// read.
struct RowPanels {
  int64_t rows, height, parts, readable;
  explicit RowPanels(int64_t rows, int64_t height = kMR, int64_t readable = 0)
      : rows(rows), height(height), parts((rows + height - 1) / height), readable(std::max(rows, readable)) {}
  int64_t begin(int64_t panel) const { return std::min(panel * height, rows); }
  int64_t size(int64_t panel) const { return begin(panel + 1) - begin(panel); }
};

// Floats of a packed row: whole cache lines.
constexpr int64_t row_room(int64_t depth) { return (depth + 15) / 16 * 16; }

// Floats beyond the packed rows that pack_a may overwrite.
constexpr int64_t kPackSlack = 16;
static_assert(kMR <= kLanes || kMR % kLanes == 0, "a vector that writes past its panel must be the only one");
constexpr int64_t kPanelVectors = (kMR + kLanes - 1) / kLanes;

// Panels written side by side from rows that lie across them: long runs are read, and the targets, which lie
// a multiple of 4 KiB apart, still fit the ways of a first-level cache.
constexpr int64_t kSideBySide = 4;

// Panels of rows that lie across k, dst[k * rows + i]: one k of a few panels at a time.  Where that many rows
// can be read a whole vector of them is moved: what it writes too much is overwritten by the next k, by the
// next panel, or is slack.  Panels begin where those of rows along k do.
template <class T>
void pack_across(const T* src, int64_t stride, const RowPanels& panels, int64_t depth, float* dst) {
  const int64_t room = row_room(depth);
  // Panels whose vectors may be read whole.
  const int64_t within = std::max<int64_t>(0, panels.readable - kPanelVectors * kLanes + kMR) / kMR;
  const int64_t whole = std::min(within, panels.rows / kMR);
  for (int64_t p0 = 0; p0 < panels.parts; p0 += kSideBySide) {
    const int64_t p1 = std::min(p0 + kSideBySide, panels.parts), full = std::min(p1, whole);
    for (int64_t k = 0; k < depth; ++k) {
      const T* from = src + k * stride;
      for (int64_t i = p0 * kMR; i < p1 * kMR; i += 16) hwy::Prefetch(from + kRowsAhead * stride + i);
      int64_t p = p0;
      for (; p < full && k + 1 < depth; ++p) {
        float* to = dst + p * kMR * room + k * kMR;
        for (int64_t i = 0; i < kMR; i += kLanes) store(load(from + p * kMR + i), to + i);
      }
      for (; p < p1; ++p) {
        const int64_t rows = panels.size(p), at = panels.begin(p);
        float* to = dst + at * room + k * rows;
        sweep(0, rows,
              [&](int64_t i, auto access) HWY_ATTR { access.store(access.load(from + at + i), to + i); });
      }
    }
  }
}

// Rows [i0, i0 + panels.rows) of A, as they lie: panel p at dst + panels.begin(p) * row_room(k.size).
// REQUIRES: kPackSlack floats behind.
template <class T>
void pack_a(const StridedView<T>& a, int64_t i0, const RowPanels& panels, Depth k, float* dst) {
  const T* src = a.data + i0 * a.row_stride + k.begin * a.col_stride;
  if (rows_of(a) == Rows::kAcross) return pack_across(src, a.col_stride, panels, k.size, dst);
  for (int64_t i = 0; i < panels.rows; ++i, src += a.row_stride, dst += row_room(k.size))
    sweep(0, k.size, [&](int64_t j, auto at) HWY_ATTR { at.store(at.load(src + j), dst + j); });
}

// Rows that are packed at a time: as pack_across likes them.
template <class T>
int64_t packed_at_once(const StridedView<T>& a) {
  return rows_of(a) == Rows::kAlong ? kMR : kSideBySide * kMR;
}

// A panel of `count` packed rows of it.
template <class T>
Operand packed_rows(const StridedView<T>& a, const float* panel, int64_t count, Depth k) {
  return {panel, rows_of(a) == Rows::kAlong ? row_room(k.size) : count};
}

// A panel of columns that lie along k, dst[k * kNR + j].
inline void pack_b_along(const float* src, int64_t stride, int64_t depth, int64_t columns, float* dst) {
  if (columns < kNR) std::memset(dst, 0, static_cast<size_t>(depth * kNR) * sizeof(float));
  transpose_block(src, stride, columns, depth, dst, kNR);
}

// The same of 16-bit numbers, converted before they are turned.
template <class H>
void pack_b_along(const H* src, int64_t stride, int64_t depth, int64_t columns, float* dst) {
  ScratchScope scratch;
  float* wide = scratch.floats(columns * depth);
  for (int64_t j = 0; j < columns; ++j) {
    sweep(0, depth, [&](int64_t k, auto at) HWY_ATTR {
      at.store(at.load(src + j * stride + k), wide + j * depth + k);
    });
  }
  pack_b_along(wide, depth, depth, columns, dst);
}

// Panels of columns from rows that lie across k, at most kSideBySide of them.
template <class T>
void pack_b_across(const T* src, int64_t stride, int64_t depth, int64_t columns, float* dst) {
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
template <class T>
void pack_b(const StridedView<T>& b, Depth k, int64_t j0, int64_t columns, float* dst) {
  const T* src = b.data + k.begin * b.row_stride + j0 * b.col_stride;
  const int64_t step = b.col_stride == 1 ? kSideBySide * kNR : kNR;
  for (int64_t j = 0; j < columns; j += step) {
    const int64_t width = std::min(step, columns - j);
    if (b.col_stride == 1) {
      pack_b_across(src + j, b.row_stride, k.size, width, dst + j * k.size);
    } else {
      pack_b_along(src + j * b.col_stride, b.col_stride, k.size, width, dst + j * k.size);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#endif
