// "linear": [batch, ...] flattened to [batch, in] when the attribute says so, a matrix product and an
// activation.
#include <ATen/ATen.h>

#include "furrow/nn/attributes_torch.h"
#include "furrow/nn/kinds_torch.h"
#include "furrow/nn/parameters_torch.h"

namespace furrow::nn {
namespace {

class Linear final : public Block {
 public:
  explicit Linear(const plan::Unit& unit)
      : weight_(ParameterSlot::find(unit, "weight")),
        bias_(ParameterSlot::find_optional(unit, "bias")),
        replicated_(unit),
        flatten_(plan::attribute<bool>(unit, "flatten")),
        activation_(unit),
        cut_(unit.parameters[static_cast<size_t>(weight_.index())].tensor_axis == 1 ? tensor::Cut::kRows
                                                                                    : tensor::Cut::kColumns) {
  }

  at::Tensor forward(const at::Tensor& input, std::span<const tensor::Param> params,
                     tensor::OpContext& context) const override {
    replicated_.sum_gradients(params, context);
    const at::Tensor x = flatten_ ? input.flatten(1) : input;
    const tensor::LinearLayer layer{weight_(params), bias_(params), activation_.of_product(), cut_};
    return activation_.behind_product(tensor::linear(x, layer, context), context);
  }

 private:
  ParameterSlot weight_, bias_;
  ReplicatedParameters replicated_;
  bool flatten_;
  UnitActivation activation_;
  tensor::Cut cut_;
};

}  // namespace

std::unique_ptr<Block> make_linear(const plan::Unit& unit) { return std::make_unique<Linear>(unit); }

}  // namespace furrow::nn
