// The product of float32: of numbers that are, or that are converted as they are packed.
#include "furrow/tensor/kernels/targets.h"
#if defined(FURROW_TENSOR_KERNELS_GEMM_SINGLE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FURROW_TENSOR_KERNELS_GEMM_SINGLE_INL_H_
#undef FURROW_TENSOR_KERNELS_GEMM_SINGLE_INL_H_
#else
#define FURROW_TENSOR_KERNELS_GEMM_SINGLE_INL_H_
#endif

#include <type_traits>

#include "furrow/tensor/kernels/gemm_blocks-inl.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {

// A block of k in a product: whether it goes on from what C holds, and whether it is the last one.
struct Links {
  bool resume, last;
  template <class Product>
  Links(const Product& p, Depth k)
      : resume(k.begin > 0 || p.out.g.accumulate), last(k.begin + k.size == p.depth) {}
};

// A register block of C, kernel(resume, c, ldc), by way of `tile`; straight into C where it is `whole` and
// nothing is left to do to it.  An Output has
//   g                        the call
//   sums()                   C where it is float32: what blocks of k go on from
//   finishes()               whether more than the sums is to be done
//   finish(tile, step, at)   C at `at` from its sums, rows `step` apart
template <class Output, class Kernel>
void compute_tile(const Output& out, const Tile& at, bool whole, Links links, float* tile,
                  const Kernel& kernel) {
  const int64_t ldc = out.g.ldc;
  float* c = out.sums() + at.i * ldc + at.j;
  const bool finish = links.last && out.finishes();
  if (whole && !finish) return kernel(links.resume, c, ldc);
  const size_t bytes = static_cast<size_t>(at.columns) * sizeof(float);
  for (int64_t r = 0; r < at.rows && links.resume; ++r) std::memcpy(tile + r * kNR, c + r * ldc, bytes);
  kernel(links.resume, tile, kNR);
  if (finish) return out.finish(tile, kNR, at);
  for (int64_t r = 0; r < at.rows; ++r) std::memcpy(c + r * ldc, tile + r * kNR, bytes);
}

// Operands of float32 are read where they lie, but for columns along k, which a register block cannot load,
// and rows that lie a multiple of 4 KiB apart across k, which share a few lines of a first-level cache.
// C is computed as it is, or turned, C^T = B^T A^T, so that columns along k are the smaller operand's. Blocks
// of C are turned when they are finished, so that k is not cut.
template <class Output, class T>
struct SingleProduct {
  using Form = PlainForm;
  Output out;
  bool turned = turns(out.g);
  StridedView<T> a = turned ? out.g.b.transposed() : out.g.a, b = turned ? out.g.a.transposed() : out.g.b;
  int64_t m = turned ? out.g.n : out.g.m, n = turned ? out.g.m : out.g.n, depth = out.g.k;
  int64_t max_depth = turned || out.sums() == nullptr ? row_room(depth) : deepest();

  int64_t rows_at_once() const { return reads_rows() ? kMR : packed_at_once(a); }
  void pack_a(int64_t i, const RowPanels& panels, Depth k, float* to) const {
    if (!reads_rows()) kernels::HWY_NAMESPACE::pack_a(a, i, panels, k, to);
  }
  // The last panel is packed where it is not whole.
  void pack_b(Depth k, int64_t j, int64_t columns, float* to) const {
    const int64_t last = columns % kNR, whole = last == kernel_columns(last) ? columns : columns - last;
    const int64_t read = reads_columns() ? whole : 0;
    if (read < columns) kernels::HWY_NAMESPACE::pack_b(b, k, j + read, columns - read, to + read * k.size);
  }

  void compute(Form::Registers&, const float* packed_a, const float* packed_b, const Tile& at, Depth k,
               float* tile) const {
    const MicroKernel kernel = at.columns <= kLanes ? micro_kernel_of<SingleLanes, 1>(rows_of(a), at.rows)
                                                    : micro_kernel_of<SingleLanes>(rows_of(a), at.rows);
    const Operand rows = rows_at(packed_a, at, k), columns = columns_at(packed_b, at, k);
    if (turned) {
      alignas(64) float back[kNR * kLanes];
      kernel(rows, columns, k.size, false, tile, kNR);
      transpose_block(tile, kNR, kLanes, kNR, back, kLanes);
      return out.finish(back, kLanes, {at.j, at.columns, at.i, at.rows});
    }
    compute_tile(out, at, at.columns == kernel_columns(at.columns), Links(*this, k), tile,
                 [&](bool resume, float* c, int64_t ldc) { kernel(rows, columns, k.size, resume, c, ldc); });
  }

 private:
  static constexpr int64_t kTurnedDepth = 1024;  // 512 KiB of the smaller operand
  static constexpr int64_t kApart = 1024;        // floats: 4 KiB
  static constexpr bool kSingle = std::is_same_v<T, float>;

  // A turned block is a vector wide.
  template <class Call>
  static bool turns(const Call& g) {
    return kLanes == 16 && kMR <= kLanes && g.a.col_stride == 1 && g.b.col_stride != 1 && g.m < g.n &&
           g.k <= kTurnedDepth && !g.accumulate;
  }
  // As many k as a first-level cache holds of rows and columns: of rows across k a line or two of each k.
  int64_t deepest() const {
    if (rows_of(a) == Rows::kAlong) return b.row_stride % kApart == 0 ? kMaxDepth : 2 * kMaxDepth;
    return reads_rows() && a.col_stride >= kApart / 2 ? kMaxDepth / 2 : kMaxDepth;
  }
  bool reads_rows() const { return kSingle && (rows_of(a) == Rows::kAlong || a.col_stride % kApart != 0); }
  bool reads_columns() const { return kSingle && b.col_stride == 1; }
  Operand rows_at(const float* packed, const Tile& at, Depth k) const {
    if constexpr (kSingle) {
      if (reads_rows())
        return {a.data + at.i * a.row_stride + k.begin * a.col_stride,
                rows_of(a) == Rows::kAlong ? a.row_stride : a.col_stride};
    }
    return packed_rows(a, packed, at.rows, k);
  }
  Operand columns_at(const float* packed, const Tile& at, Depth k) const {
    if constexpr (kSingle) {
      if (reads_columns() && at.columns == kernel_columns(at.columns))
        return {b.data + at.j + k.begin * b.row_stride, b.row_stride};
    }
    return {packed, kNR};
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#endif
