// The units of a Llama style decoder (Touvron et al., "LLaMA: open and efficient foundation language models",
// 2023): RMSNorm, rotary positions, SwiGLU, grouped-query attention; no biases, or those of queries, keys and
// values (Yang et al., "Qwen2 technical report", 2024).  Parameters have the names of Hugging Face's Llama.
// Initialisation as the gpt's: N(0, 0.02), the projections that write into the residual stream N(0, 0.02 /
// sqrt(2 layers)), biases 0, norms 1.
#include <fmt/format.h>

#include <cmath>

#include "furrow/models/llama_sizes.h"
#include "furrow/models/specs.h"
#include "furrow/models/unit_builder.h"

namespace furrow::models {
namespace {

constexpr double kStd = 0.02;

void require_width(const plan::Unit& unit, int64_t width) {
  require_input(unit, DType::kF32, 3, "[-1, time, width]");
  if (unit.input.shape[2] == width) return;
  unit_error(unit, fmt::format("width is {}, but the input is {}", width, to_string(unit.input.shape)));
}

// A tensor axis cuts its outputs: weight [out, in] and, where the unit has them, bias.
void add_attention_projection(plan::Unit& unit, const std::string& name, int64_t out, int64_t in) {
  add_cut_parameter(unit, name + ".weight", {out, in}, normal(kStd), 0);
  const bool bias = unit.attributes.contains("qkv_bias") && flag(unit, "qkv_bias");
  if (bias) add_cut_parameter(unit, name + ".bias", {out}, zeros(), 0);
}

void add_block_parameters(plan::Unit& unit, const LlamaSizes& s) {
  const double residual_std = kStd / std::sqrt(2.0 * static_cast<double>(size_of(unit, "layers")));
  add_parameter(unit, "input_layernorm.weight", {s.width}, ones());
  add_attention_projection(unit, "self_attn.q_proj", s.query_width(), s.width);
  add_attention_projection(unit, "self_attn.k_proj", s.kv_width(), s.width);
  add_attention_projection(unit, "self_attn.v_proj", s.kv_width(), s.width);
  add_cut_parameter(unit, "self_attn.o_proj.weight", {s.width, s.query_width()}, normal(residual_std), 1);
  add_parameter(unit, "post_attention_layernorm.weight", {s.width}, ones());
  add_cut_parameter(unit, "mlp.gate_proj.weight", {s.ffn, s.width}, normal(kStd), 0);
  add_cut_parameter(unit, "mlp.up_proj.weight", {s.ffn, s.width}, normal(kStd), 0);
  add_cut_parameter(unit, "mlp.down_proj.weight", {s.width, s.ffn}, normal(residual_std), 1);
}

}  // namespace

// tokens [-1, time] -> weight[token].
void describe_embedding(plan::Unit& unit) {
  require_input(unit, DType::kI64, 2, "[-1, time]");
  const int64_t width = size_of(unit, "width");
  add_cut_parameter(unit, "weight", {size_of(unit, "vocab"), width}, normal(positive(unit, "std")), 0);
  unit.output = {DType::kF32, {-1, unit.input.shape[1], width}};
  unit.deferred_bytes = border_bytes(unit, unit.output);  // the gradient to scatter; looking up is no product
  unit.kept_grad_bytes = unit.deferred_bytes;
  cut_embedding(unit, width);
}

// x + o_proj(attention(input_layernorm(x))), then + down_proj(silu(gate_proj(.)) * up_proj(.)) of
// post_attention_layernorm.  FLOPs as the transformer_block's: attention counted as if it were not causal.
void describe_llama_block(plan::Unit& unit) {
  const LlamaSizes s = llama_sizes(unit);
  rotary_frequencies(unit);  // or the error of its attributes
  positive(unit, "eps");
  require_width(unit, s.width);
  add_block_parameters(unit, s);
  unit.output = unit.input;

  const int64_t time = unit.input.shape[1];
  const auto t = static_cast<double>(time), c = static_cast<double>(s.width),
             queries = static_cast<double>(s.query_width());
  const double projections =
      2.0 * t * c *
      (2.0 * queries + 2.0 * static_cast<double>(s.kv_width()) + 3.0 * static_cast<double>(s.ffn));
  const double attention = 4.0 * t * t * queries;
  unit.flops = {projections + attention, projections + 2.0 * attention, projections};
  // Per position: both norms and the residual between, a width each; q and attention, the heads' width each;
  // k and v; gate, up and their product; the attention's log-sum-exp per head; the factor of two norms.
  unit.saved_bytes =
      time * ((3 * s.width + 2 * s.query_width() + 2 * s.kv_width() + 3 * s.ffn) * number_bytes(unit) +
              (s.heads + 2) * kFloatBytes);
  // Inputs of the projections (2 widths, attention, ffn) and the gradients behind them (2 widths, q, k and v,
  // 2 ffn), of which down_proj's is the one that came.
  unit.deferred_bytes =
      time * (4 * s.width + 2 * s.query_width() + 2 * s.kv_width() + 3 * s.ffn) * number_bytes(unit);
  unit.kept_saved_bytes = time * (2 * s.width + s.query_width() + s.ffn) * number_bytes(unit);
  unit.kept_grad_bytes = time * s.width * number_bytes(unit);
  // Over a tensor axis the outputs of both norms are gathered, and the gradients behind both sums.
  unit.tensor = {true,
                 {{"positions", time}, {"kv_heads", s.kv_heads}},
                 time * 2 * s.width * number_bytes(unit),
                 time * 4 * s.width * number_bytes(unit)};
  unit.input.tensor_axis = unit.output.tensor_axis = 1;
  add_position_collectives(unit, s.width, 2);
  add_replicated_sum(unit);
}

// model.norm, then logits over the vocabulary; with `tied_to` the matrix is the token embedding's.
void describe_llama_head(plan::Unit& unit) {
  const int64_t vocab = size_of(unit, "vocab"), width = size_of(unit, "width");
  positive(unit, "eps");
  require_width(unit, width);
  add_parameter(unit, "model.norm.weight", {width}, ones());
  add_cut_parameter(unit, "lm_head.weight", {vocab, width}, normal(kStd), 0);
  unit.parameters.back().tied_to = text(unit, "tied_to");
  const int64_t time = unit.input.shape[1];
  unit.output = {DType::kF32, {-1, time, vocab}};
  const double flops =
      2.0 * static_cast<double>(time) * static_cast<double>(vocab) * static_cast<double>(width);
  unit.flops = {flops, flops, flops};
  unit.saved_bytes = time * (width * number_bytes(unit) + kFloatBytes);  // the norm's output and factor
  unit.deferred_bytes =
      time * (width + vocab) * number_bytes(unit);  // the norm's output, the gradient of the logits
  unit.kept_saved_bytes = time * width * number_bytes(unit);
  unit.kept_grad_bytes = time * vocab * number_bytes(unit);
  cut_head(unit, width);
}

}  // namespace furrow::models
