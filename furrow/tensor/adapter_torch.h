// Layers whose weights have adapters (`Param::adapter`); the operations of ops_torch.h come here, with their
// arguments.  Internal to tensor.
#pragma once

#include "furrow/tensor/embedding_torch.h"
#include "furrow/tensor/ops_torch.h"

namespace furrow::tensor {

at::Tensor linear_with_adapter(const at::Tensor& x, const LinearLayer& layer, OpContext& context);
at::Tensor side_by_side_with_adapters(const at::Tensor& x, const SideBySideLayers& layers,
                                      OpContext& context);
at::Tensor conv2d_with_adapter(const at::Tensor& x, const Param& weight, const Param& bias,
                               const Convolution& convolution, OpContext& context);
at::Tensor strided_conv2d_with_adapter(const at::Tensor& x, const Param& weight,
                                       const StridedConvolution& convolution, OpContext& context);
at::Tensor embedding_with_adapters(const at::Tensor& ids, const Param& tokens, const Param& positions,
                                   OpContext& context);
// REQUIRES: shared(context).
at::Tensor embedding_cut_with_adapters(const at::Tensor& ids, const CutTables& tables, OpContext& context);

// W + scale * B A of `type`, W's.  Without history.  On the CPU.  REQUIRES: an adapter.
at::Tensor weight_with_adapter(const Param& weight, at::ScalarType type, int threads);
// Defers the gradients of A and B where a layer read that sum: x [rows, in] and the gradient dy [rows, out]
// of x (W + scale * B A)^T, dense on the CPU.
void defer_adapter(const Adapter& adapter, const at::Tensor& x, const at::Tensor& dy, GradientSink& sink,
                   int threads);

}  // namespace furrow::tensor
