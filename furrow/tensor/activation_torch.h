// Activations of linear layers and their gradients, in the types that operations have.  Internal to tensor.
#pragma once

#include <ATen/core/Tensor.h>

#include "furrow/tensor/kernels/gemm.h"
#include "furrow/tensor/ops_torch.h"

namespace furrow::tensor {

kernels::Activation kernel_activation(Activation activation);

// out = activation(in), both dense float32; they may be one.  Its slope where backward reads it and
// `recorded` says that there is one, else nothing.
at::Tensor activate(const at::Tensor& in, const at::Tensor& out, Activation activation, bool recorded,
                    int threads);

// The gradient of what an activation reads, in dy's type.  `gate` is what its backward reads: the
// slope, or of ReLU, tanh and sigmoid the output; none of kNone, where it may be whatever is dense.  `db`
// (may be null) receives the sums of the columns.
at::Tensor activation_gradient(Activation activation, const at::Tensor& gate, const at::Tensor& dy, float* db,
                               int threads);

}  // namespace furrow::tensor
