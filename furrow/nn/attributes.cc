#include <ATen/ATen.h>
#include <fmt/format.h>

#include <string_view>
#include <utility>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/nn/attributes_torch.h"
#include "furrow/tensor/autograd_torch.h"

namespace furrow::nn {
namespace {

using tensor::Activation;

constexpr std::pair<std::string_view, Activation> kActivations[] = {
    {"none", Activation::kNone}, {"relu", Activation::kRelu},
    {"gelu", Activation::kGelu}, {"gelu_tanh", Activation::kGeluTanh},
    {"silu", Activation::kSilu}, {"softplus", Activation::kSoftplus},
    {"tanh", Activation::kTanh}, {"sigmoid", Activation::kSigmoid}};

// libtorch's: a comparison and a product.  Its gradient needs the output alone, whose side is the input's.
at::Tensor leaky_relu(const at::Tensor& x, double slope) {
  const bool image = x.dim() == 4 && x.is_contiguous(at::MemoryFormat::ChannelsLast);
  const auto format = image ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  const at::Tensor y = at::leaky_relu(x.detach().contiguous(format), slope);
  return tensor::with_backward(
      y, {x},
      [kept = y.detach(), slope](const at::Tensor& dy) {
        return std::vector{at::leaky_relu_backward(dy, kept, slope, /*self_is_result=*/true)};
      },
      format);
}

}  // namespace

Activation activation_attribute(const plan::Unit& unit, const std::string& key) {
  const std::string name = plan::attribute<std::string>(unit, key);
  std::vector<std::string_view> known;
  for (const auto& [each, activation] : kActivations) {
    if (each == name) return activation;
    known.push_back(each);
  }
  throw Error(ErrorCode::kInternal,
              fmt::format("unit {}: no activation '{}'; known: {}", unit.name, name, fmt::join(known, ", ")));
}

UnitActivation::UnitActivation(const plan::Unit& unit)
    : leaky_(plan::attribute<std::string>(unit, "activation") == "leaky_relu"),
      slope_(unit.attributes.contains("slope") ? plan::attribute<double>(unit, "slope") : 0.2),
      activation_(leaky_ ? Activation::kNone : activation_attribute(unit, "activation")) {}

at::Tensor UnitActivation::behind_product(const at::Tensor& y, tensor::OpContext& context) const {
  return in_product() ? y : apply(y, {}, context);
}

at::Tensor UnitActivation::apply(const at::Tensor& x, const tensor::Param& bias,
                                 tensor::OpContext& context) const {
  const at::Tensor y = tensor::biased_activation(x, bias, activation_, context);
  return leaky_ ? leaky_relu(y, slope_) : y;
}

}  // namespace furrow::nn
