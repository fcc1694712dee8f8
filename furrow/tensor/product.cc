#include <ATen/ATen.h>

#include "furrow/base/error.h"
#include "furrow/tensor/half_torch.h"
#include "furrow/tensor/kernels/gemm_half.h"
#include "furrow/tensor/product_torch.h"

namespace furrow::tensor {
namespace {

void multiply_float32(const Product& p, int threads) {
  kernels::Gemm g;
  g.m = p.m;
  g.n = p.n;
  g.k = p.k;
  g.a = {numbers<float>(p.a.tensor) + p.a.offset, p.a.row_stride, p.a.col_stride};
  g.b = {numbers<float>(p.b.tensor) + p.b.offset, p.b.row_stride, p.b.col_stride};
  g.c = p.wide_c != nullptr ? p.wide_c : mutable_numbers<float>(p.c) + p.c_offset;
  g.ldc = p.ldc;
  g.epilogue.bias = numbers<float>(p.bias);
  g.epilogue.activation = p.activation;
  g.epilogue.slope = mutable_numbers<float>(p.slope);
  g.accumulate = p.accumulate;
  kernels::gemm(g, threads);
}

template <class H>
void multiply_half(const Product& p, int threads) {
  kernels::HalfGemm<H> g;
  g.m = p.m;
  g.n = p.n;
  g.k = p.k;
  g.a = {numbers<H>(p.a.tensor) + p.a.offset, p.a.row_stride, p.a.col_stride};
  g.b = {numbers<H>(p.b.tensor) + p.b.offset, p.b.row_stride, p.b.col_stride};
  g.wide_c = p.wide_c;
  g.c = p.wide_c != nullptr ? nullptr : mutable_numbers<H>(p.c) + p.c_offset;
  g.ldc = p.ldc;
  g.bias = numbers<H>(p.bias);
  g.activation = p.activation;
  g.slope = mutable_numbers<H>(p.slope);
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
