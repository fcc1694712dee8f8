// Linear layers whose weights have adapters; linear and linear_side_by_side come here.  Internal to tensor.
#pragma once

#include <span>

#include "furrow/tensor/kernels/gemm.h"
#include "furrow/tensor/ops_torch.h"

namespace furrow::tensor {

kernels::Activation kernel_activation(Activation activation);

at::Tensor linear_with_adapter(const at::Tensor& x, const Param& weight, const Param& bias,
                               Activation activation, OpContext& context);
at::Tensor side_by_side_with_adapters(const at::Tensor& x, std::span<const Param> weights,
                                      OpContext& context);

}  // namespace furrow::tensor
