// Linear layers with low-rank adapters: y = activation(x W^T + b + dropout(x) A^T (scale B)^T).
#include <ATen/ATen.h>

#include <vector>

#include "furrow/tensor/activation_torch.h"
#include "furrow/tensor/adapter_torch.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/composition_torch.h"
#include "furrow/tensor/half_torch.h"

namespace furrow::tensor {
namespace {

Param without_adapter(const Param& weight) { return {weight.leaf, weight.index}; }

// The thin product is scaled: it has the fewest elements.
at::Tensor adapted(const at::Tensor& x, const Adapter& adapter, OpContext& context) {
  const at::Tensor kept = dropout(x, adapter.dropout, adapter.stream, context);
  const at::Tensor thin = linear(kept, adapter.a, {}, Activation::kNone, context);
  return linear(thin * adapter.scale, adapter.b, {}, Activation::kNone, context);
}

at::Tensor activated(const at::Tensor& z, Activation activation, OpContext& context) {
  if (activation == Activation::kNone) return z;
  if (composed(z))
    return activation == Activation::kRelu
               ? at::relu(z)
               : at::gelu(z, activation == Activation::kGeluTanh ? "tanh" : "none");
  const int threads = context.threads;
  const at::Tensor wide = widened(z, threads), out = at::empty_like(wide);
  const at::Tensor slope = activate(wide, out, activation, needs_backward({z}), threads);
  const at::Tensor y = narrowed(out, z.scalar_type(), threads);
  const at::Tensor gate = slope.defined() ? narrowed(slope, z.scalar_type(), threads) : y.detach();
  return with_backward(y, {z}, [activation, gate, threads](const at::Tensor& dy) {
    return std::vector{activation_gradient(activation, gate, dy, nullptr, threads)};
  });
}

}  // namespace

at::Tensor linear_with_adapter(const at::Tensor& x, const Param& weight, const Param& bias,
                               Activation activation, OpContext& context) {
  const at::Tensor base = linear(x, without_adapter(weight), bias, Activation::kNone, context);
  return activated(add_dropout(base, adapted(x, *weight.adapter, context), 0, "", context), activation,
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
