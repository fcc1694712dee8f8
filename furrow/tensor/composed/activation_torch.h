// Activations in libtorch's operations.  Internal to tensor.
#pragma once

#include <ATen/core/Tensor.h>

#include "furrow/tensor/ops_torch.h"

namespace furrow::tensor::by_composition {

at::Tensor activated(const at::Tensor& z, Activation activation);

// Whether the gradient is of the output; else of what was activated.
bool reads_output(Activation activation);

// `gate` is what reads_output() says, in dy's type.
at::Tensor activation_backward(const at::Tensor& dy, const at::Tensor& gate, Activation activation);

}  // namespace furrow::tensor::by_composition
