// The register block of all matrix products: kMR x kNR outputs from a few rows and a panel of columns.
#include "furrow/tensor/kernels/targets.h"
#if defined(FURROW_TENSOR_KERNELS_GEMM_KERNEL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FURROW_TENSOR_KERNELS_GEMM_KERNEL_INL_H_
#undef FURROW_TENSOR_KERNELS_GEMM_KERNEL_INL_H_
#else
#define FURROW_TENSOR_KERNELS_GEMM_KERNEL_INL_H_
#endif

#include <algorithm>
#include <array>
#include <type_traits>
#include <utility>

#include "furrow/tensor/kernels/gemm.h"
#include "furrow/tensor/kernels/pairs-inl.h"
#include "furrow/tensor/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {

// 14 x 32 with AVX-512, 6 x 16 with AVX2: all but a few registers hold sums.
#if HWY_TARGET == HWY_AVX3
constexpr int kMR = 14, kNV = 2;
#elif HWY_TARGET == HWY_AVX2
constexpr int kMR = 6, kNV = 2;
#elif HWY_TARGET == HWY_SCALAR
constexpr int kMR = 2, kNV = 4;
#else
constexpr int kMR = 8, kNV = 3;
#endif
constexpr int kNR = kNV * kLanes;

// What a 32-bit lane of the operands is: a float32, or two bfloat16 that are neighbours in k.
struct SingleLanes {
  using Number = float;
  static constexpr int64_t kNumbers = 1;
  static HWY_INLINE VF multiply_add(VF a, VF b, VF sum) { return hn::MulAdd(a, b, sum); }
  template <class T, class Access>
  static HWY_INLINE void store(VF value, T* to, const Access& at) {
    at.store(value, to);
  }
};
#if FURROW_BF16_PAIRS
struct PairLanes {
  using Number = bf16;
  static constexpr int64_t kNumbers = 2;
  static HWY_INLINE VF multiply_add(VF a, VF b, VF sum) { return add_products(a, b, sum); }
  template <class Access>
  static HWY_INLINE void store(VF value, bf16* to, const Access& at) {
    store_normal(value, to, at);
  }
};
#endif

// k that are fetched before they are needed: of rows on the right, and of a left operand that lies across
// them, whose rows are read from memory once, a line or two of each, so that no processor foresees them.
constexpr int64_t kRowsAhead = 8, kLeftAhead = 16;

// How the rows of a left operand lie: those of one k together (across k), or each one's k together (along k).
enum class Rows : uint8_t { kAcross, kAlong };
template <class T>
Rows rows_of(const StridedView<T>& a) {
  return a.col_stride == 1 ? Rows::kAlong : Rows::kAcross;
}

// Where an operand lies.  `next` floats on is the next row of a left one along k, else the next k.
struct Operand {
  const float* data;
  int64_t next;
};

// Rows along k: an instruction forms a row's address by itself, from one of three rows and by 0 .. 4 strides.
struct RowPointers {
  const float *first, *sixth, *eleventh;
  int64_t stride, three, four;
  const float* following;  // the next block's rows, of which a line is fetched each k
  HWY_INLINE explicit RowPointers(Operand a)
      : first(a.data),
        sixth(a.data + 5 * a.next),
        eleventh(a.data + 10 * a.next),
        stride(a.next),
        three(3 * a.next),
        four(4 * a.next),
        following(a.data + kMR * a.next) {
    // Else the compiler makes a pointer a row of them, more than there are registers.
    __asm__("" : "+r"(first), "+r"(sixth), "+r"(eleventh), "+r"(three), "+r"(four));
  }
  HWY_INLINE float of(int i) const {
    const float* from = i < 5 ? first : i < 10 ? sixth : eleventh;
    const int strides = i % 5;
    return from[strides == 4 ? four : strides == 3 ? three : strides * stride];
  }
  HWY_INLINE void fetch(int rows) {
    if (rows < kMR) return;
    hwy::Prefetch(following);
    following += 16;
  }
  HWY_INLINE void advance() {
    ++first;
    ++sixth;
    ++eleventh;
  }
};
struct ColumnPointer {
  const float* first;
  int64_t stride;
  HWY_INLINE explicit ColumnPointer(Operand a) : first(a.data), stride(a.next) {}
  HWY_INLINE float of(int i) const { return first[i]; }
  HWY_INLINE void fetch(int rows) const {
    hwy::Prefetch(first + kLeftAhead * stride);
    if (rows > 1) hwy::Prefetch(first + kLeftAhead * stride + rows - 1);
  }
  HWY_INLINE void advance() { first += stride; }
};

// C[MR, NV kLanes] = (resume ? C : 0) + sum over k of a(i, k) * b(k, j), k in order.
template <class Lanes, int MR, Rows ROWS, int NV>
HWY_NOINLINE void micro_kernel(Operand a, Operand b, int64_t lanes, bool resume, float* HWY_RESTRICT c,
                               int64_t ldc) {
  static_assert(MR <= 15);
  VF acc[MR][NV];
  if (resume) {
    const float* row = c;
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i, row += ldc) {
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) acc[i][j] = load(row + j * kLanes);
    }
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) acc[i][j] = zero();
    }
  }
  // Else the compiler forms the address of every row of C before the loop, and keeps them in memory.
  __asm__("" : "+r"(c), "+r"(ldc));
  std::conditional_t<ROWS == Rows::kAlong, RowPointers, ColumnPointer> ak(a);
  for (; lanes > 0; --lanes, ak.advance(), b.data += b.next) {
    for (int j = 0; j < NV * kLanes; j += 16) hwy::Prefetch(b.data + kRowsAhead * b.next + j);
    ak.fetch(MR);
    VF bk[NV];
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) bk[j] = load(b.data + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
      const VF ai = set(ak.of(i));
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) acc[i][j] = Lanes::multiply_add(ai, bk[j], acc[i][j]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i, c += ldc) {
    __asm__("" : "+r"(c));
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) store(acc[i][j], c + j * kLanes);
  }
}

using MicroKernel = void (*)(Operand, Operand, int64_t, bool, float*, int64_t);

template <class Lanes, Rows ROWS, int NV, size_t... COUNTS>
constexpr std::array<MicroKernel, kMR> micro_kernels(std::index_sequence<COUNTS...>) {
  return {&micro_kernel<Lanes, COUNTS + 1, ROWS, NV>...};
}

// Columns that the kernel for `columns` of them computes: a panel, or one vector where that will do.
constexpr int64_t kernel_columns(int64_t columns) { return columns <= kLanes ? kLanes : kNR; }

// The kernel for `count` rows, 1 <= count <= kMR.
template <class Lanes, Rows ROWS, int NV = kNV>
MicroKernel micro_kernel_of(int64_t count) {
  static constexpr std::array<MicroKernel, kMR> kTable =
      micro_kernels<Lanes, ROWS, NV>(std::make_index_sequence<kMR>());
  return kTable[static_cast<size_t>(count - 1)];
}
template <class Lanes, int NV = kNV>
MicroKernel micro_kernel_of(Rows rows, int64_t count) {
  return rows == Rows::kAlong ? micro_kernel_of<Lanes, Rows::kAlong, NV>(count)
                              : micro_kernel_of<Lanes, Rows::kAcross, NV>(count);
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#endif
