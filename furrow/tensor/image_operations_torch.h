// The two implementations of residual networks' operations (ops_torch.h).  Internal to tensor.
#pragma once

#include "furrow/tensor/ops_torch.h"

#define FURROW_DECLARE_IMAGE_OPERATIONS                                                                      \
  at::Tensor strided_conv2d(const at::Tensor& x, const Param& weight, const StridedConvolution& convolution, \
                            OpContext& context);                                                             \
  at::Tensor batch_norm(const at::Tensor& x, const Param& weight, const Param& bias, const BatchNorm& norm,  \
                        OpContext& context);                                                                 \
  at::Tensor subsample_and_pad(const at::Tensor& x, int64_t stride, int64_t channels, OpContext& context);   \
  at::Tensor max_pool(const at::Tensor& x, const Pool& pool, OpContext& context);                            \
  at::Tensor average_pool(const at::Tensor& x, const Pool& pool, OpContext& context);                        \
  at::Tensor biased_activation(const at::Tensor& x, const Param& bias, Activation activation,                \
                               OpContext& context);                                                          \
  at::Tensor global_average_pool(const at::Tensor& x, OpContext& context);

namespace furrow::tensor {
inline constexpr at::MemoryFormat kImageFormat = at::MemoryFormat::ChannelsLast;
at::Tensor dense_image(const at::Tensor& x);  // in that format, without history; channels_last.cc
void check_rows_of_norm(int64_t rows);        // in training; Error{invalid_argument}
}  // namespace furrow::tensor

namespace furrow::tensor::by_kernels {
FURROW_DECLARE_IMAGE_OPERATIONS
}

namespace furrow::tensor::by_composition {
FURROW_DECLARE_IMAGE_OPERATIONS
}

#undef FURROW_DECLARE_IMAGE_OPERATIONS
