// "conv_relu_pool": a square convolution of stride 1, then ReLU and a 2x2 max pool as the attributes say.
#include "furrow/nn/kinds_torch.h"
#include "furrow/nn/parameters_torch.h"
#include "furrow/tensor/ops_torch.h"

namespace furrow::nn {
namespace {

class ConvReluPool final : public Block {
 public:
  explicit ConvReluPool(const plan::Unit& unit)
      : weight_(ParameterSlot::find(unit, "weight")), bias_(ParameterSlot::find_optional(unit, "bias")) {
    convolution_.padding = plan::attribute<int64_t>(unit, "padding");
    convolution_.relu = plan::attribute<bool>(unit, "relu");
    convolution_.pool = plan::attribute<bool>(unit, "pool");
  }

  at::Tensor forward(const at::Tensor& input, std::span<const tensor::Param> params,
                     tensor::OpContext& context) const override {
    return tensor::conv2d(input, weight_(params), bias_(params), convolution_, context);
  }

 private:
  ParameterSlot weight_, bias_;
  tensor::Convolution convolution_;
};

}  // namespace

std::unique_ptr<Block> make_conv_relu_pool(const plan::Unit& unit) {
  return std::make_unique<ConvReluPool>(unit);
}

}  // namespace furrow::nn
