// "llama_block" and "llama_head": the parts of Llama's decoder (Touvron et al., 2023).
#include <ATen/core/Tensor.h>

#include <array>

#include "furrow/models/llama_sizes.h"
#include "furrow/nn/kinds_torch.h"
#include "furrow/nn/parameters_torch.h"
#include "furrow/tensor/feed_forward_torch.h"
#include "furrow/tensor/ops_torch.h"

namespace furrow::nn {
namespace {

using tensor::Activation;
using tensor::Cut;

// Grouped-query attention with rotary positions and a SwiGLU feed-forward, each behind an RMSNorm and around
// a residual.
class LlamaBlock final : public Block {
 public:
  explicit LlamaBlock(const plan::Unit& unit)
      : norm_1_(ParameterSlot::find(unit, "input_layernorm.weight")),
        q_(unit, "self_attn.q_proj"),
        k_(unit, "self_attn.k_proj"),
        v_(unit, "self_attn.v_proj"),
        o_(ParameterSlot::find(unit, "self_attn.o_proj.weight")),
        norm_2_(ParameterSlot::find(unit, "post_attention_layernorm.weight")),
        gate_(ParameterSlot::find(unit, "mlp.gate_proj.weight")),
        up_(ParameterSlot::find(unit, "mlp.up_proj.weight")),
        down_(ParameterSlot::find(unit, "mlp.down_proj.weight")),
        replicated_(unit),
        eps_(plan::attribute<double>(unit, "eps")) {
    const models::LlamaSizes sizes = models::llama_sizes(unit);
    heads_.heads = own_part(unit, sizes.heads);
    heads_.kv_heads = own_part(unit, sizes.kv_heads);
    heads_.rotary =
        tensor::rotary_table(unit.input.shape[1] * unit.tensor_degree, models::rotary_frequencies(unit));
  }

  at::Tensor forward(const at::Tensor& input, std::span<const tensor::Param> params,
                     tensor::OpContext& context) const override {
    replicated_.sum_gradients(params, context);
    const auto norm = [&](const at::Tensor& x, const ParameterSlot& weight) {
      return tensor::rms_norm(x, weight(params), eps_, context);
    };
    const auto linear_of_rows = [&](const at::Tensor& x, const ParameterSlot& weight) {
      return tensor::linear(x, {weight(params), {}, Activation::kNone, Cut::kRowsToPositions}, context);
    };
    const auto linear_of_columns = [&](const at::Tensor& x, std::span<const tensor::Param> weights,
                                       std::span<const tensor::Param> biases = {}) {
      return tensor::linear_side_by_side(x, {weights, biases, Cut::kPositionsToColumns}, context);
    };
    const std::array qkv_weights{q_.weight(params), k_.weight(params), v_.weight(params)};
    const std::array qkv_biases{q_.bias(params), k_.bias(params), v_.bias(params)};
    const at::Tensor qkv = linear_of_columns(norm(input, norm_1_), qkv_weights, qkv_biases);
    const at::Tensor mixed = tensor::causal_attention(qkv, heads_, 0, "", context);
    const at::Tensor middle = tensor::add_dropout(input, linear_of_rows(mixed, o_), 0, "", context);
    const std::array gate_up{gate_(params), up_(params)};
    return tensor::feed_forward(
        middle, {.norm = {norm_2_(params), {}, eps_, false}, .in = gate_up, .out = down_(params)}, context);
  }

 private:
  ParameterSlot norm_1_;
  LayerSlots q_, k_, v_;
  ParameterSlot o_, norm_2_, gate_, up_, down_;
  ReplicatedParameters replicated_;
  double eps_;
  tensor::AttentionHeads heads_;  // of this rank
};

class LlamaHead final : public Block {
 public:
  explicit LlamaHead(const plan::Unit& unit)
      : norm_(ParameterSlot::find(unit, "model.norm.weight")),
        weight_(ParameterSlot::find(unit, "lm_head.weight")),
        replicated_(unit),
        eps_(plan::attribute<double>(unit, "eps")) {}

  at::Tensor forward(const at::Tensor& input, std::span<const tensor::Param> params,
                     tensor::OpContext& context) const override {
    replicated_.sum_gradients(params, context);
    const at::Tensor x = tensor::rms_norm(input, norm_(params), eps_, context);
    return tensor::linear(x, {weight_(params), {}, Activation::kNone, Cut::kPositionsToColumns}, context);
  }

 private:
  ParameterSlot norm_, weight_;
  ReplicatedParameters replicated_;
  double eps_;
};

}  // namespace

std::unique_ptr<Block> make_llama_block(const plan::Unit& unit) { return std::make_unique<LlamaBlock>(unit); }
std::unique_ptr<Block> make_llama_head(const plan::Unit& unit) { return std::make_unique<LlamaHead>(unit); }

}  // namespace furrow::nn
