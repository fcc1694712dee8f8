// An activation by itself as a composition, float32 inside.
#include <ATen/ATen.h>

#include <string_view>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/half_torch.h"
#include "furrow/tensor/image_operations_torch.h"

namespace furrow::tensor::by_composition {
namespace {

std::string_view approximation(Activation activation) {
  return activation == Activation::kGeluTanh ? "tanh" : "none";
}

at::Tensor activated(const at::Tensor& z, Activation activation) {
  switch (activation) {
    case Activation::kNone:
      return z;
    case Activation::kRelu:
      return at::relu(z);
    case Activation::kGelu:
    case Activation::kGeluTanh:
      return at::gelu(z, approximation(activation));
    case Activation::kSilu:
      return at::silu(z);
    case Activation::kSoftplus:
      return at::softplus(z);
    case Activation::kTanh:
      return at::tanh(z);
    case Activation::kSigmoid:
      return at::sigmoid(z);
  }
  return z;
}

// `z` and `y` are float32.
at::Tensor gradient(const at::Tensor& dy, const at::Tensor& z, const at::Tensor& y, Activation activation) {
  switch (activation) {
    case Activation::kNone:
      return dy;
    case Activation::kRelu:
      return at::threshold_backward(dy, y, 0);
    case Activation::kGelu:
    case Activation::kGeluTanh:
      return at::gelu_backward(dy, z, approximation(activation));
    case Activation::kSilu:
      return at::silu_backward(dy, z);
    case Activation::kSoftplus:
      return at::softplus_backward(dy, z, 1, 20);
    case Activation::kTanh:
      return at::tanh_backward(dy, y);
    case Activation::kSigmoid:
      return at::sigmoid_backward(dy, y);
  }
  return dy;
}

bool reads_output(Activation activation) {
  return activation == Activation::kRelu || activation >= Activation::kTanh;
}

}  // namespace

at::Tensor biased_activation(const at::Tensor& x, const Param& bias, Activation activation,
                             OpContext& context) {
  FURROW_CHECK(is_number(x) && (!bias.defined() || (x.dim() == 4 && bias.leaf.numel() == x.size(1))),
               "an activation reads numbers, with a bias those of an image");
  const bool is_image = x.dim() == 4 && (bias.defined() || x.is_contiguous(kImageFormat));
  const at::MemoryFormat format = is_image ? kImageFormat : at::MemoryFormat::Contiguous;
  at::Tensor z = x.detach().contiguous(format).to(at::kFloat);
  if (bias.defined()) z = z + bias.leaf.detach().to(at::kFloat).view({1, -1, 1, 1});
  const at::Tensor wide = activated(z, activation), y = wide.to(x.scalar_type()).contiguous(format);
  const bool output = reads_output(activation);
  const at::Tensor gate = (output ? wide : z).detach();
  GradientSink* const sink = bias.defined() ? context.sink : nullptr;
  const auto backward = [=, index = bias.index](const at::Tensor& dy) -> std::vector<at::Tensor> {
    const at::Tensor dz = gradient(dy.to(at::kFloat), gate, gate, activation);
    if (sink != nullptr) sink->put(index, dz.sum({0, 2, 3}));
    return {dz.to(dy.scalar_type()).contiguous(format)};
  };
  // A result of its own: kNone of float32 without a bias is not called, so that `y` is fresh.
  return bias.defined() ? with_backward(y, {x, bias.leaf}, backward, format)
                        : with_backward(y, {x}, backward, format);
}

}  // namespace furrow::tensor::by_composition
