#include <fmt/format.h>

#include "furrow/base/error.h"
#include "furrow/nn/attributes_torch.h"

namespace furrow::nn {

tensor::Activation activation_attribute(const plan::Unit& unit, const std::string& key) {
  const std::string name = plan::attribute<std::string>(unit, key);
  if (name == "none") return tensor::Activation::kNone;
  if (name == "relu") return tensor::Activation::kRelu;
  if (name == "gelu") return tensor::Activation::kGelu;
  if (name == "gelu_tanh") return tensor::Activation::kGeluTanh;
  throw Error(
      ErrorCode::kInternal,
      fmt::format("unit {}: no activation '{}'; known: gelu, gelu_tanh, none, relu", unit.name, name));
}

}  // namespace furrow::nn
