// 16-bit numbers between operations: kernels that have no form of their own for them work on float32 copies.
#pragma once

#include <ATen/core/Tensor.h>

#include "furrow/base/error.h"
#include "furrow/tensor/kernels/half.h"

namespace furrow::tensor {

// float32, bfloat16 or float16: what operations read and give.
bool is_number(const at::Tensor& x);

// The values as dense float32 without history; `x` itself where it is that already.
at::Tensor widened(const at::Tensor& x, int threads);

// Dense float32 values rounded to `type`; `x` itself for float32.
at::Tensor narrowed(const at::Tensor& x, at::ScalarType type, int threads);

// `x` itself where it is of that type, else narrowed().
inline at::Tensor rounded(const at::Tensor& x, at::ScalarType type, int threads) {
  return x.scalar_type() == type ? x : narrowed(x, type, threads);
}

// The elements of a dense tensor as kernels know them: T is float, kernels::bf16 or kernels::f16.  Null of
// one that is undefined.
template <class T>
const T* numbers(const at::Tensor& x) {
  return x.defined() ? static_cast<const T*>(x.const_data_ptr()) : nullptr;
}
template <class T>
T* mutable_numbers(const at::Tensor& x) {
  return x.defined() ? static_cast<T*>(x.data_ptr()) : nullptr;
}

// fn(T()) for the T of `type`.
template <class Fn>
void by_type(at::ScalarType type, const Fn& fn) {
  if (type == at::kFloat) return fn(float());
  if (type == at::kBFloat16) return fn(kernels::bf16());
  FURROW_CHECK(type == at::kHalf, "numbers are float32, bfloat16 or float16");
  fn(kernels::f16());
}

}  // namespace furrow::tensor
