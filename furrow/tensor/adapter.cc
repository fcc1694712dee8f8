// Linear layers with low-rank adapters: y = activation(x W^T + b + scale * dropout(x) A^T B^T).
#include <ATen/ATen.h>

#include <vector>

#include "furrow/tensor/adapter_torch.h"

namespace furrow::tensor {
namespace {

Param without_adapter(const Param& weight) { return {weight.leaf, weight.index}; }

at::Tensor activate(const at::Tensor& z, Activation activation) {
  switch (activation) {
    case Activation::kRelu:
      return at::relu(z);
    case Activation::kGelu:
      return at::gelu(z);
    case Activation::kGeluTanh:
      return at::gelu(z, "tanh");
    case Activation::kNone:
      break;
  }
  return z;
}

// scale * dropout(x) A^T B^T.
at::Tensor adapted(const at::Tensor& x, const Adapter& adapter, OpContext& context) {
  const at::Tensor kept = dropout(x, adapter.dropout, adapter.stream, context);
  const at::Tensor thin = linear(kept, adapter.a, {}, Activation::kNone, context);
  return linear(thin, adapter.b, {}, Activation::kNone, context) * adapter.scale;
}

}  // namespace

at::Tensor linear_with_adapter(const at::Tensor& x, const Param& weight, const Param& bias,
                               Activation activation, OpContext& context) {
  const at::Tensor base = linear(x, without_adapter(weight), bias, Activation::kNone, context);
  return activate(base + adapted(x, *weight.adapter, context), activation);
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
  return linear_side_by_side(x, plain, context) + at::cat(parts, -1);
}

}  // namespace furrow::tensor
