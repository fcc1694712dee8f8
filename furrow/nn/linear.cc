// "linear": [batch, ...] flattened to [batch, in] when the attribute says so, a matrix product and an
// activation.
#include <ATen/ATen.h>

#include "furrow/nn/attributes_torch.h"
#include "furrow/nn/kinds_torch.h"
#include "furrow/nn/parameters_torch.h"
#include "furrow/tensor/autograd_torch.h"

namespace furrow::nn {
namespace {

// Activations whose gradient needs the output alone: of leaky_relu the side is its sign, of sigmoid y (1 -
// y).
constexpr double kLeakySlope = 0.2;

at::Tensor leaky_relu(const at::Tensor& x) {
  const at::Tensor y = at::leaky_relu(x.detach(), kLeakySlope);
  return tensor::with_backward(y, {x}, [kept = y.detach()](const at::Tensor& dy) {
    return std::vector{at::leaky_relu_backward(dy, kept, kLeakySlope, /*self_is_result=*/true)};
  });
}

at::Tensor sigmoid(const at::Tensor& x) {
  const at::Tensor y = at::sigmoid(x.detach());
  return tensor::with_backward(y, {x}, [kept = y.detach()](const at::Tensor& dy) {
    return std::vector{at::sigmoid_backward(dy, kept)};
  });
}

using Separate = at::Tensor (*)(const at::Tensor&);

// Those that the product does not apply itself; null: it does.
Separate separate_activation(const plan::Unit& unit) {
  const std::string name = plan::attribute<std::string>(unit, "activation");
  if (name == "leaky_relu") return &leaky_relu;
  return name == "sigmoid" ? &sigmoid : nullptr;
}

class Linear final : public Block {
 public:
  explicit Linear(const plan::Unit& unit)
      : weight_(ParameterSlot::find(unit, "weight")),
        bias_(ParameterSlot::find_optional(unit, "bias")),
        replicated_(unit),
        flatten_(plan::attribute<bool>(unit, "flatten")),
        separate_(separate_activation(unit)),
        activation_(separate_ != nullptr ? tensor::Activation::kNone
                                         : activation_attribute(unit, "activation")),
        cut_(unit.parameters[static_cast<size_t>(weight_.index())].tensor_axis == 1 ? tensor::Cut::kRows
                                                                                    : tensor::Cut::kColumns) {
  }

  at::Tensor forward(const at::Tensor& input, std::span<const tensor::Param> params,
                     tensor::OpContext& context) const override {
    replicated_.sum_gradients(params, context);
    const at::Tensor x = flatten_ ? input.flatten(1) : input;
    const at::Tensor y = tensor::linear(x, {weight_(params), bias_(params), activation_, cut_}, context);
    return separate_ != nullptr ? separate_(y) : y;
  }

 private:
  ParameterSlot weight_, bias_;
  ReplicatedParameters replicated_;
  bool flatten_;
  Separate separate_;
  tensor::Activation activation_;
  tensor::Cut cut_;
};

}  // namespace

std::unique_ptr<Block> make_linear(const plan::Unit& unit) { return std::make_unique<Linear>(unit); }

}  // namespace furrow::nn
