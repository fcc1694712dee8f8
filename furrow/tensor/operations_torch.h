// The two implementations of the operations of ops_torch.h, which has their contracts.  Internal to tensor.
#pragma once

#include "furrow/tensor/embedding_torch.h"
#include "furrow/tensor/ops_torch.h"

#define FURROW_DECLARE_OPERATIONS                                                                            \
  at::Tensor linear(const at::Tensor& x, const LinearLayer& layer, OpContext& context);                      \
  at::Tensor linear_side_by_side(const at::Tensor& x, const SideBySideLayers& layers, OpContext& context);   \
  at::Tensor conv2d(const at::Tensor& x, const Param& weight, const Param& bias,                             \
                    const Convolution& convolution, OpContext& context);                                     \
  at::Tensor embedding(const at::Tensor& ids, const Param& tokens, const Param& positions,                   \
                       OpContext& context);                                                                  \
  at::Tensor embedding_cut(const at::Tensor& ids, const CutTables& tables, OpContext& context);              \
  at::Tensor layer_norm(const at::Tensor& x, const Param& weight, const Param& bias, double eps,             \
                        OpContext& context);                                                                 \
  at::Tensor rms_norm(const at::Tensor& x, const Param& weight, double eps, OpContext& context);             \
  at::Tensor swiglu(const at::Tensor& gate_up, OpContext& context);                                          \
  at::Tensor causal_attention(const at::Tensor& qkv, const AttentionHeads& heads, double dropout_p,          \
                              std::string_view stream, OpContext& context);                                  \
  at::Tensor lstm(const at::Tensor& x, const Param& weight, const Param& bias, OpContext& context);          \
  at::Tensor recurrent_concatenation(const at::Tensor& x, const Param& weight, const Param& bias,            \
                                     OpContext& context);                                                    \
  at::Tensor dropout(const at::Tensor& x, double p, std::string_view stream, OpContext& context);            \
  at::Tensor dropout_of_columns(const at::Tensor& x, int64_t columns, double p, std::string_view stream,     \
                                OpContext& context);                                                         \
  at::Tensor add_dropout(const at::Tensor& residual, const at::Tensor& x, double p, std::string_view stream, \
                         OpContext& context);

namespace furrow::tensor::by_kernels {
FURROW_DECLARE_OPERATIONS
}

namespace furrow::tensor::by_composition {
FURROW_DECLARE_OPERATIONS
}

#undef FURROW_DECLARE_OPERATIONS
