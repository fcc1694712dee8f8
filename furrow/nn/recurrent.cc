// "rnn" and "lstm": recurrent layers over a sequence, state zero before it; dropout of what they give.
#include <string>

#include "furrow/nn/kinds_torch.h"
#include "furrow/nn/parameters_torch.h"
#include "furrow/tensor/ops_torch.h"

namespace furrow::nn {
namespace {

double dropout_of(const plan::Unit& unit) {
  return unit.attributes.contains("dropout") ? plan::attribute<double>(unit, "dropout") : 0;
}

// h_t = tanh(i2h([x_t, h_{t-1}])), output i2o([x_t, h_{t-1}]).
class Rnn final : public Block {
 public:
  explicit Rnn(const plan::Unit& unit)
      : i2h_weight_(ParameterSlot::find(unit, "i2h.weight")),
        i2h_bias_(ParameterSlot::find(unit, "i2h.bias")),
        i2o_weight_(ParameterSlot::find(unit, "i2o.weight")),
        i2o_bias_(ParameterSlot::find(unit, "i2o.bias")),
        dropout_(dropout_of(unit)),
        stream_(layer_name(unit, "i2o.weight", "dropout")) {}

  at::Tensor forward(const at::Tensor& input, std::span<const tensor::Param> params,
                     tensor::OpContext& context) const override {
    const at::Tensor both =
        tensor::recurrent_concatenation(input, i2h_weight_(params), i2h_bias_(params), context);
    const at::Tensor y =
        tensor::linear(both, i2o_weight_(params), i2o_bias_(params), tensor::Activation::kNone, context);
    return tensor::dropout(y, dropout_, stream_, context);
  }

 private:
  ParameterSlot i2h_weight_, i2h_bias_, i2o_weight_, i2o_bias_;
  double dropout_;
  std::string stream_;
};

// The four gates are i2h([x_t, h_{t-1}]); output h.
class Lstm final : public Block {
 public:
  explicit Lstm(const plan::Unit& unit)
      : weight_(ParameterSlot::find(unit, "i2h.weight")),
        bias_(ParameterSlot::find(unit, "i2h.bias")),
        dropout_(dropout_of(unit)),
        stream_(layer_name(unit, "i2h.weight", "dropout")) {}

  at::Tensor forward(const at::Tensor& input, std::span<const tensor::Param> params,
                     tensor::OpContext& context) const override {
    const at::Tensor h = tensor::lstm(input, weight_(params), bias_(params), context);
    return tensor::dropout(h, dropout_, stream_, context);
  }

 private:
  ParameterSlot weight_, bias_;
  double dropout_;
  std::string stream_;
};

}  // namespace

std::unique_ptr<Block> make_rnn(const plan::Unit& unit) { return std::make_unique<Rnn>(unit); }
std::unique_ptr<Block> make_lstm(const plan::Unit& unit) { return std::make_unique<Lstm>(unit); }

}  // namespace furrow::nn
