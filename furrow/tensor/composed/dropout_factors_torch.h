// The masks of dropout as a tensor on any device: the bits of kernels/dropout.h.  Internal to tensor.
#pragma once

#include <ATen/core/Tensor.h>

#include <string_view>

#include "furrow/tensor/op_context.h"

namespace furrow::tensor {

// 0 or 1 / (1 - p), float32 [samples of the context, per_sample].
at::Tensor dropout_factors(double p, std::string_view stream, int64_t per_sample, const OpContext& context,
                           const at::Device& device);

}  // namespace furrow::tensor
