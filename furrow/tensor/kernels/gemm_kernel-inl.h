// The register block of all matrix products: kMR x kNR outputs from two packed panels.
#include "furrow/tensor/kernels/targets.h"
#if defined(FURROW_TENSOR_KERNELS_GEMM_KERNEL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FURROW_TENSOR_KERNELS_GEMM_KERNEL_INL_H_
#undef FURROW_TENSOR_KERNELS_GEMM_KERNEL_INL_H_
#else
#define FURROW_TENSOR_KERNELS_GEMM_KERNEL_INL_H_
#endif

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

// C[MR, kNR] = (RESUME ? C : 0) + sum over k of a[k * MR + i] * b[k * kNR + j], k in order.
template <int MR, bool RESUME>
HWY_NOINLINE void micro_kernel(const float* HWY_RESTRICT a, const float* HWY_RESTRICT b, int64_t k,
                               float* HWY_RESTRICT c, int64_t ldc) {
  VF acc[MR][kNV];
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kNV; ++j) acc[i][j] = RESUME ? load(c + i * ldc + j * kLanes) : zero();
  }
  for (; k > 0; --k, a += MR, b += kNR) {
    VF bk[kNV];
#pragma GCC unroll 4
    for (int j = 0; j < kNV; ++j) bk[j] = load(b + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
      const VF ai = set(a[i]);
#pragma GCC unroll 4
      for (int j = 0; j < kNV; ++j) acc[i][j] = hn::MulAdd(ai, bk[j], acc[i][j]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kNV; ++j) store(acc[i][j], c + i * ldc + j * kLanes);
  }
}

using MicroKernel = void (*)(const float*, const float*, int64_t, float*, int64_t);

template <bool RESUME>
MicroKernel micro_kernel_in_table(int64_t rows) {
  static constexpr MicroKernel kTable[] = {
      &micro_kernel<1, RESUME>,  &micro_kernel<2, RESUME>,
#if HWY_TARGET != HWY_SCALAR
      &micro_kernel<3, RESUME>,  &micro_kernel<4, RESUME>,  &micro_kernel<5, RESUME>,
      &micro_kernel<6, RESUME>,
#if HWY_TARGET != HWY_AVX2
      &micro_kernel<7, RESUME>,  &micro_kernel<8, RESUME>,
#endif
#if HWY_TARGET == HWY_AVX3
      &micro_kernel<9, RESUME>,  &micro_kernel<10, RESUME>, &micro_kernel<11, RESUME>,
      &micro_kernel<12, RESUME>, &micro_kernel<13, RESUME>, &micro_kernel<14, RESUME>,
#endif
#endif
  };
  static_assert(sizeof(kTable) / sizeof(kTable[0]) == kMR);
  return kTable[rows - 1];
}

// The kernel for `rows` rows, 1 <= rows <= kMR, that starts from zero or resumes the chains that C holds.
inline MicroKernel micro_kernel_of(int64_t rows, bool resume) {
  return resume ? micro_kernel_in_table<true>(rows) : micro_kernel_in_table<false>(rows);
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#endif
