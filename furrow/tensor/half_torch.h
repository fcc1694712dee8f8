// 16-bit numbers between operations: kernels that have no form of their own for them work on float32 copies.
#pragma once

#include <ATen/core/Tensor.h>

namespace furrow::tensor {

// float32, bfloat16 or float16: what operations read and give.
bool is_number(const at::Tensor& x);

// The values as dense float32 without history; `x` itself where it is that already.
at::Tensor widened(const at::Tensor& x, int threads);

// Dense float32 values rounded to `type`; `x` itself for float32.
at::Tensor narrowed(const at::Tensor& x, at::ScalarType type, int threads);

}  // namespace furrow::tensor
