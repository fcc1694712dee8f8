// One way to make an operation differentiable: compute the output, then say what backward does.
//
//   at::Tensor y = ...;                                             // kernels, no autograd
//   return with_backward(y, {x}, [x](const at::Tensor& dy) { return std::vector{times_two(dy)}; });
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/MemoryFormat.h>

#include <functional>
#include <initializer_list>
#include <span>
#include <vector>

namespace furrow::tensor {

// d(output) -> d(input) for each input, an undefined tensor where there is none.  The argument is dense
// float32, in the memory format that with_backward was given.
using Backward = std::function<std::vector<at::Tensor>(const at::Tensor& gradient)>;

// Whether autograd would record an operation over these inputs.
bool needs_backward(std::initializer_list<at::Tensor> inputs);

// `output`, a fresh tensor without history, as the result of an operation over `inputs` (all defined).  A
// parameter whose gradient goes to a sink is listed last, so that backward runs even when the data needs no
// gradient.  `backward` runs at most once and is then destroyed, with the activations it holds; double
// backward is not supported (Error{internal}). The closure must not hold `output` itself (a cycle): hold
// output.detach().
at::Tensor with_backward(at::Tensor output, std::initializer_list<at::Tensor> inputs, Backward backward,
                         at::MemoryFormat format = at::MemoryFormat::Contiguous);

}  // namespace furrow::tensor
