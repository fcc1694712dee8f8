// "transformer_block": attention and an MLP with GELU, each behind a layer norm and around a residual
// (pre-LN), as in Radford et al., "Language models are unsupervised multitask learners", 2019 (GPT-2).
#include <array>

#include "furrow/nn/attributes_torch.h"
#include "furrow/nn/kinds_torch.h"
#include "furrow/nn/parameters_torch.h"
#include "furrow/tensor/feed_forward_torch.h"
#include "furrow/tensor/ops_torch.h"

namespace furrow::nn {
namespace {

using tensor::Activation;
using tensor::Cut;

class TransformerBlock final : public Block {
 public:
  explicit TransformerBlock(const plan::Unit& unit)
      : ln_1_(unit, "ln_1"),
        attention_in_(unit, "attn.c_attn"),
        attention_out_(unit, "attn.c_proj"),
        ln_2_(unit, "ln_2"),
        mlp_in_(unit, "mlp.c_fc"),
        mlp_out_(unit, "mlp.c_proj"),
        replicated_(unit),
        heads_(own_part(unit, plan::attribute<int64_t>(unit, "heads"))),
        dropout_(plan::attribute<double>(unit, "dropout")),
        activation_(unit.attributes.contains("activation") ? activation_attribute(unit, "activation")
                                                           : Activation::kGelu),
        attention_stream_(layer_name(unit, "ln_1.weight", "attn.attn_dropout")),
        attention_out_stream_(layer_name(unit, "ln_1.weight", "attn.resid_dropout")),
        mlp_stream_(layer_name(unit, "ln_1.weight", "mlp.dropout")) {}

  at::Tensor forward(const at::Tensor& input, std::span<const tensor::Param> params,
                     tensor::OpContext& context) const override {
    replicated_.sum_gradients(params, context);
    const auto linear = [&](const at::Tensor& x, const LayerSlots& layer, Cut cut) {
      return tensor::linear(x, {layer.weight(params), layer.bias(params), Activation::kNone, cut}, context);
    };
    const auto norm = [&](const at::Tensor& x, const LayerSlots& layer) {
      return tensor::layer_norm(x, layer.weight(params), layer.bias(params), kEpsilon, context);
    };
    const at::Tensor qkv = linear(norm(input, ln_1_), attention_in_, Cut::kPositionsToColumns);
    const at::Tensor mixed = tensor::causal_attention(qkv, heads_, dropout_, attention_stream_, context);
    const at::Tensor middle = tensor::add_dropout(input, linear(mixed, attention_out_, Cut::kRowsToPositions),
                                                  dropout_, attention_out_stream_, context);
    const std::array mlp_in{mlp_in_.weight(params)};
    return tensor::feed_forward(middle,
                                {.norm = {ln_2_.weight(params), ln_2_.bias(params), kEpsilon},
                                 .in = mlp_in,
                                 .in_bias = mlp_in_.bias(params),
                                 .activation = activation_,
                                 .out = mlp_out_.weight(params),
                                 .out_bias = mlp_out_.bias(params),
                                 .dropout = dropout_,
                                 .stream = mlp_stream_},
                                context);
  }

 private:
  static constexpr double kEpsilon = 1e-5;
  LayerSlots ln_1_, attention_in_, attention_out_, ln_2_, mlp_in_, mlp_out_;
  ReplicatedParameters replicated_;
  int64_t heads_;  // of this rank
  double dropout_;
  Activation activation_;
  std::string attention_stream_, attention_out_stream_, mlp_stream_;  // layer names of the masks
};

}  // namespace

std::unique_ptr<Block> make_transformer_block(const plan::Unit& unit) {
  return std::make_unique<TransformerBlock>(unit);
}

}  // namespace furrow::nn
