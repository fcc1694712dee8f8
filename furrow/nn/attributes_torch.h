// Attributes of a unit as operations take them.
#pragma once

#include <string>

#include "furrow/plan/model_spec.h"
#include "furrow/tensor/ops_torch.h"

namespace furrow::nn {

// An activation of tensor/ops_torch.h by its name.  Error{internal} for another name: models/ has validated
// it.
tensor::Activation activation_attribute(const plan::Unit& unit, const std::string& key);

// The attribute "activation" of a unit that takes any of models/unit_builder.h.
class UnitActivation {
 public:
  explicit UnitActivation(const plan::Unit& unit);

  // What a product may apply itself; kNone where apply() has still to be called.
  tensor::Activation of_product() const { return in_product() ? activation_ : tensor::Activation::kNone; }
  // The rest, behind such a product.
  at::Tensor behind_product(const at::Tensor& y, tensor::OpContext& context) const;
  // All of it, `bias` of an image's channels before it, which may be absent.
  at::Tensor apply(const at::Tensor& x, const tensor::Param& bias, tensor::OpContext& context) const;

 private:
  bool in_product() const { return !leaky_ && activation_ <= tensor::Activation::kGeluTanh; }

  bool leaky_;
  double slope_;
  tensor::Activation activation_;
};

}  // namespace furrow::nn
