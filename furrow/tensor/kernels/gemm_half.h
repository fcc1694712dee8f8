// Matrix products of 16-bit numbers with float32 sums, and the three of a linear layer.
//
// bfloat16 on a processor with AVX-512 BF16: every output element is one chain of VDPBF16PS over the pairs
// k = (0, 1), (2, 3), ... (two products at a time, subnormals count as zero).  With AMX it is one chain of
// TDPBF16PS over k = 0 .. 31, 32 .. 63, ...: of each 32 the products with even and with odd k are two chains
// of fused multiply-adds from zero, whose sum is added (tiles-inl.h).  Elsewhere, for float16, and for a
// 16-bit result of more than 8,192 terms, operands are converted to float32 as they are packed and the chain
// is that of gemm.h.  Each way an element's bits do not depend on the thread count, on the other rows and
// columns, on alignment or on the blocking; which of them it is belongs to the instruction set.  Thread safe;
// outputs must not overlap inputs.
#pragma once

#include <cstdint>

#include "furrow/tensor/kernels/gemm.h"
#include "furrow/tensor/kernels/half.h"

namespace furrow::tensor::kernels {

// What products of bfloat16 that this thread starts run on.
enum class Bf16Products : uint8_t {
  kConverted,  // float32
  kPairs,      // AVX-512 BF16
  kTiles,      // AMX
};
Bf16Products bf16_products();

template <class H>
using HalfView = StridedView<H>;

// C[m, n] = activation(A[m, k] B[k, n] + bias), rounded once where C is of 16 bits.  Exactly one of `c` and
// `wide_c` is given.  `slope` (GELUs) and `c` share a layout.
template <class H>
struct HalfGemm {
  int64_t m = 0, n = 0, k = 0;
  HalfView<H> a, b;
  H* c = nullptr;
  float* wide_c = nullptr;
  int64_t ldc = 0;
  const H* bias = nullptr;
  Activation activation = Activation::kNone;
  H* slope = nullptr;
  bool accumulate = false;  // wide_c alone: the chains go on from what it holds; parts of k that are
                            // multiples of 32 have the bits of one product over all of it
};
void gemm(const HalfGemm<bf16>& args, int threads);
void gemm(const HalfGemm<f16>& args, int threads);

}  // namespace furrow::tensor::kernels
