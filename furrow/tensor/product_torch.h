// A matrix product of tensors of one number type, float32, bfloat16 or float16: kernels/gemm.h and
// kernels/gemm_half.h behind one form.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "furrow/tensor/kernels/gemm.h"

namespace furrow::tensor {

// Element (i, j) at offset + i * row_stride + j * col_stride of a dense tensor; one of the strides is 1.
struct Operand {
  const at::Tensor& tensor;
  int64_t row_stride = 0;
  int64_t col_stride = 1;
  int64_t offset = 0;
};

// C[m, n] = activation(A[m, k] B[k, n] + bias), rounded once.  C is float32 at `wide_c`, or of the operands'
// type at element `c_offset` of `c`.  With `accumulate` (wide_c alone) the chains go on from what C holds.
struct Product {
  int64_t m = 0, n = 0, k = 0;
  Operand a, b;
  at::Tensor c = {};
  int64_t c_offset = 0;
  float* wide_c = nullptr;
  int64_t ldc = 0;
  at::Tensor bias = {};
  kernels::Activation activation = kernels::Activation::kNone;
  bool accumulate = false;
  at::Tensor slope = {};  // GELU's derivative goes here, of the operands' type
};
void multiply(const Product& product, int threads);

}  // namespace furrow::tensor
