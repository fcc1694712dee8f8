// Attributes of a unit as operations take them.
#pragma once

#include <string>

#include "furrow/plan/model_spec.h"
#include "furrow/tensor/ops_torch.h"

namespace furrow::nn {

// "none", "relu", "gelu" or "gelu_tanh".  Error{internal} for another name: models/ has validated it.
tensor::Activation activation_attribute(const plan::Unit& unit, const std::string& key);

}  // namespace furrow::nn
