#include "furrow/tensor/kernels/half.h"

#include <ATen/ATen.h>

#include "furrow/base/error.h"
#include "furrow/tensor/composition_torch.h"
#include "furrow/tensor/half_torch.h"

namespace furrow::tensor {

bool is_number(const at::Tensor& x) {
  const at::ScalarType type = x.scalar_type();
  return type == at::kFloat || type == at::kBFloat16 || type == at::kHalf;
}

at::Tensor widened(const at::Tensor& x, int threads) {
  const at::Tensor dense = x.detach().contiguous();
  if (dense.scalar_type() == at::kFloat) return dense;
  FURROW_CHECK(is_number(dense), "numbers are float32, bfloat16 or float16");
  if (composed(dense)) return dense.to(at::kFloat);
  at::Tensor wide = at::empty(dense.sizes(), dense.options().dtype(at::kFloat));
  if (dense.scalar_type() == at::kBFloat16) {
    kernels::convert(dense.numel(), static_cast<const kernels::bf16*>(dense.const_data_ptr()),
                     wide.data_ptr<float>(), threads);
  } else {
    kernels::convert(dense.numel(), static_cast<const kernels::f16*>(dense.const_data_ptr()),
                     wide.data_ptr<float>(), threads);
  }
  return wide;
}

at::Tensor narrowed(const at::Tensor& x, at::ScalarType type, int threads) {
  if (type == at::kFloat) return x;
  if (composed(x)) return x.to(type);
  at::Tensor narrow = at::empty(x.sizes(), x.options().dtype(type));
  if (type == at::kBFloat16) {
    kernels::convert(x.numel(), x.const_data_ptr<float>(), static_cast<kernels::bf16*>(narrow.data_ptr()),
                     threads);
  } else {
    kernels::convert(x.numel(), x.const_data_ptr<float>(), static_cast<kernels::f16*>(narrow.data_ptr()),
                     threads);
  }
  return narrow;
}

}  // namespace furrow::tensor
