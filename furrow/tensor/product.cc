#include <ATen/ATen.h>

#include "furrow/base/error.h"
#include "furrow/tensor/kernels/gemm_half.h"
#include "furrow/tensor/product_torch.h"

namespace furrow::tensor {
namespace {

template <class T>
const T* data(const at::Tensor& tensor, int64_t offset = 0) {
  return tensor.defined() ? static_cast<const T*>(tensor.const_data_ptr()) + offset : nullptr;
}

template <class T>
T* target(const at::Tensor& tensor, int64_t offset = 0) {
  return tensor.defined() ? static_cast<T*>(tensor.data_ptr()) + offset : nullptr;
}

void multiply_float32(const Product& p, int threads) {
  kernels::Gemm g;
  g.m = p.m;
  g.n = p.n;
  g.k = p.k;
  g.a = {data<float>(p.a.tensor, p.a.offset), p.a.row_stride, p.a.col_stride};
  g.b = {data<float>(p.b.tensor, p.b.offset), p.b.row_stride, p.b.col_stride};
  g.c = p.wide_c != nullptr ? p.wide_c : target<float>(p.c, p.c_offset);
  g.ldc = p.ldc;
  g.epilogue.bias = data<float>(p.bias);
  g.epilogue.activation = p.activation;
  g.epilogue.slope = target<float>(p.slope);
  g.accumulate = p.accumulate;
  kernels::gemm(g, threads);
}

template <class H>
void multiply_half(const Product& p, int threads) {
  kernels::HalfGemm<H> g;
  g.m = p.m;
  g.n = p.n;
  g.k = p.k;
  g.a = {data<H>(p.a.tensor, p.a.offset), p.a.row_stride, p.a.col_stride};
  g.b = {data<H>(p.b.tensor, p.b.offset), p.b.row_stride, p.b.col_stride};
  g.wide_c = p.wide_c;
  g.c = p.wide_c != nullptr ? nullptr : target<H>(p.c, p.c_offset);
  g.ldc = p.ldc;
  g.bias = data<H>(p.bias);
  g.activation = p.activation;
  g.slope = target<H>(p.slope);
  g.accumulate = p.accumulate;
  kernels::gemm(g, threads);
}

}  // namespace

void multiply(const Product& product, int threads) {
  const at::ScalarType type = product.a.tensor.scalar_type();
  FURROW_CHECK(product.b.tensor.scalar_type() == type, "operands of a product are of one type");
  switch (type) {
    case at::kFloat:
      return multiply_float32(product, threads);
    case at::kBFloat16:
      return multiply_half<kernels::bf16>(product, threads);
    case at::kHalf:
      return multiply_half<kernels::f16>(product, threads);
    default:
      FURROW_CHECK(false, "a product of numbers");
  }
}

}  // namespace furrow::tensor
