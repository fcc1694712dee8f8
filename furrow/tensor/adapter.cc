// Linear layers with low-rank adapters: y = activation(x W^T + b + dropout(x) A^T (scale B)^T).
#include <ATen/ATen.h>

#include <vector>

#include "furrow/tensor/adapter_torch.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/half_torch.h"
#include "furrow/tensor/kernels/elementwise.h"

namespace furrow::tensor {
namespace {

Param without_adapter(const Param& weight) { return {weight.leaf, weight.index}; }

// The thin product is scaled: it has the fewest elements.
at::Tensor adapted(const at::Tensor& x, const Adapter& adapter, OpContext& context) {
  const at::Tensor kept = dropout(x, adapter.dropout, adapter.stream, context);
  const at::Tensor thin = linear(kept, adapter.a, {}, Activation::kNone, context);
  return linear(thin * adapter.scale, adapter.b, {}, Activation::kNone, context);
}

// What the activation's backward reads: ReLU's output, GELU's slope.
at::Tensor activation_backward(Activation activation, const at::Tensor& gate, const at::Tensor& dy,
                               int threads) {
  const at::Tensor wide_gate = widened(gate, threads), wide_dy = widened(dy, threads);
  at::Tensor dz = at::empty_like(wide_dy);
  kernels::ActivationBackward args;
  args.columns = dy.size(-1);
  args.rows = dy.numel() / args.columns;
  args.activation = kernel_activation(activation);
  args.dy = wide_dy.const_data_ptr<float>();
  (activation == Activation::kRelu ? args.y : args.slope) = wide_gate.const_data_ptr<float>();
  args.dz = dz.data_ptr<float>();
  kernels::activation_backward(args, threads);
  return narrowed(dz, dy.scalar_type(), threads);
}

at::Tensor activate(const at::Tensor& z, Activation activation, OpContext& context) {
  if (activation == Activation::kNone) return z;
  const int threads = context.threads;
  const bool keeps_slope = activation >= Activation::kGelu && needs_backward({z});
  const at::Tensor wide = widened(z, threads);
  at::Tensor y = at::empty_like(wide), slope = keeps_slope ? at::empty_like(wide) : at::Tensor();
  kernels::activation_forward(kernel_activation(activation), wide.numel(), wide.const_data_ptr<float>(),
                              y.data_ptr<float>(), keeps_slope ? slope.data_ptr<float>() : nullptr, threads);
  y = narrowed(y, z.scalar_type(), threads);
  const at::Tensor gate = keeps_slope ? narrowed(slope, z.scalar_type(), threads) : y.detach();
  return with_backward(y, {z}, [activation, gate, threads](const at::Tensor& dy) {
    return std::vector{activation_backward(activation, gate, dy, threads)};
  });
}

}  // namespace

at::Tensor linear_with_adapter(const at::Tensor& x, const Param& weight, const Param& bias,
                               Activation activation, OpContext& context) {
  const at::Tensor base = linear(x, without_adapter(weight), bias, Activation::kNone, context);
  return activate(add_dropout(base, adapted(x, *weight.adapter, context), 0, "", context), activation,
                  context);
}

at::Tensor side_by_side_with_adapters(const at::Tensor& x, std::span<const Param> weights,
                                      OpContext& context) {
  std::vector<Param> plain;
  std::vector<at::Tensor> parts;
  std::vector<int64_t> sizes = x.sizes().vec();
  for (const Param& weight : weights) {
    plain.push_back(without_adapter(weight));
    sizes.back() = weight.leaf.size(0);
    parts.push_back(weight.adapter ? adapted(x, *weight.adapter, context) : at::zeros(sizes, x.options()));
  }
  return add_dropout(linear_side_by_side(x, plain, context), at::cat(parts, -1), 0, "", context);
}

}  // namespace furrow::tensor
