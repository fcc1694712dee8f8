// The units of a GPT-2 style decoder (Radford et al., "Language models are unsupervised multitask learners",
// 2019), with GPT-2's parameter names and nanoGPT's initialisation: N(0, 0.02), the projections that write
// into the residual stream N(0, 0.02 / sqrt(2 layers)), biases 0, norms 1.
#include <fmt/format.h>

#include <cmath>

#include "furrow/models/specs.h"
#include "furrow/models/unit_builder.h"

namespace furrow::models {
namespace {

constexpr double kStd = 0.02;

void add_norm(plan::Unit& unit, const std::string& name, int64_t width, bool bias) {
  add_parameter(unit, name + ".weight", {width}, ones());
  if (bias) add_parameter(unit, name + ".bias", {width}, zeros());
}

// A tensor axis cuts its outputs, in `segments`: weight [out, in] and bias.
void add_column_projection(plan::Unit& unit, const std::string& name, int64_t in, double std, bool bias,
                           std::vector<int64_t> segments) {
  int64_t out = 0;
  for (const int64_t length : segments) out += length;
  add_cut_parameter(unit, name + ".weight", {out, in}, normal(std), 0, segments);
  if (bias) add_cut_parameter(unit, name + ".bias", {out}, zeros(), 0, segments);
}

// A tensor axis cuts its inputs; the bias is added behind the sum.
void add_row_projection(plan::Unit& unit, const std::string& name, int64_t out, int64_t in, double std,
                        bool bias) {
  add_cut_parameter(unit, name + ".weight", {out, in}, normal(std), 1);
  if (bias) add_parameter(unit, name + ".bias", {out}, zeros());
}

// What is dropped, and of 16 bits float32 copies on both sides of the mask.
void add_mask(plan::Unit& unit) {
  const int64_t out = border_bytes(unit, unit.output);
  const int64_t copies = number_bytes(unit) < kFloatBytes ? 2 * numbers_of(unit.output) * kFloatBytes : 0;
  unit.forward_scratch.sample_bytes = out + copies;
  unit.backward_scratch.sample_bytes = copies;
}

void require_width(const plan::Unit& unit, int64_t width) {
  require_input(unit, DType::kF32, 3, "[-1, time, width]");
  if (unit.input.shape[2] == width) return;
  unit_error(unit, fmt::format("width is {}, but the input is {}", width, to_string(unit.input.shape)));
}

void add_block_parameters(plan::Unit& unit, int64_t width, bool bias) {
  const double residual_std = kStd / std::sqrt(2.0 * static_cast<double>(size_of(unit, "layers")));
  add_norm(unit, "ln_1", width, bias);
  add_column_projection(unit, "attn.c_attn", width, kStd, bias, {width, width, width});
  add_row_projection(unit, "attn.c_proj", width, width, residual_std, bias);
  add_norm(unit, "ln_2", width, bias);
  add_column_projection(unit, "mlp.c_fc", width, kStd, bias, {4 * width});
  add_row_projection(unit, "mlp.c_proj", width, 4 * width, residual_std, bias);
}

}  // namespace

// tokens [-1, time] -> wte[token] + wpe[position], dropout.
void describe_token_embedding(plan::Unit& unit) {
  require_input(unit, DType::kI64, 2, "[-1, time]");
  const int64_t vocab = size_of(unit, "vocab");
  const int64_t context = size_of(unit, "context");
  const int64_t width = size_of(unit, "width");
  const bool drops = probability(unit, "dropout") > 0;
  const int64_t time = unit.input.shape[1];
  if (time > context) {
    unit_error(unit, fmt::format("the input has {} positions, more than the context of {}", time, context));
  }
  add_cut_parameter(unit, "wte.weight", {vocab, width}, normal(kStd), 0);
  add_parameter(unit, "wpe.weight", {context, width}, normal(kStd));
  unit.output = {DType::kF32, {-1, time, width}};
  unit.deferred_bytes = border_bytes(unit, unit.output);  // the gradient to scatter; looking up is no product
  unit.kept_grad_bytes = drops ? 0 : unit.deferred_bytes;
  if (drops) add_mask(unit);
  cut_embedding(unit, width);
}

// x + attention(ln_1(x)), then + mlp(ln_2(.)): causal self-attention over `heads`, gelu.
//
// Of the FLOPs, 24 time width^2 are the four projections and 4 time^2 width the two products of attention,
// counted as if it were not causal (Chowdhery et al., "PaLM", 2022, appendix B); its backward has twice
// those, all of them before the input gradient is known.
void describe_transformer_block(plan::Unit& unit) {
  const int64_t width = size_of(unit, "width");
  const int64_t heads = size_of(unit, "heads");
  const bool bias = flag(unit, "bias");
  const bool drops = probability(unit, "dropout") > 0;
  if (unit.attributes.contains("activation")) {
    const std::string name = text(unit, "activation");
    if (name != "gelu" && name != "gelu_tanh")
      unit_error(unit, fmt::format("unknown activation '{}': known: gelu, gelu_tanh", name));
  }
  require_width(unit, width);
  if (width % heads != 0) unit_error(unit, fmt::format("width {} is no multiple of heads {}", width, heads));
  add_block_parameters(unit, width, bias);
  unit.output = unit.input;

  const int64_t time = unit.input.shape[1];
  const auto t = static_cast<double>(time);
  const auto c = static_cast<double>(width);
  const double projections = 24.0 * t * c * c;
  const double attention = 4.0 * t * t * c;
  unit.flops = {projections + attention, projections + 2.0 * attention, projections};
  // Per position: ln_1 1, qkv 3, attention 1, the residual between 1, ln_2 1, gelu's slope 4 and output 4
  // widths; the attention's log-sum-exp per head; mean and deviation of two norms.  No mask is kept: dropout
  // is drawn again.
  unit.saved_bytes = time * (15 * width * number_bytes(unit) + (heads + 4) * kFloatBytes);
  // Inputs of the four projections (7 widths) and the gradients behind them (9), of which the last is the one
  // that came, unless a mask lies between.
  unit.deferred_bytes = time * 16 * width * number_bytes(unit);
  unit.kept_saved_bytes = time * 7 * width * number_bytes(unit);
  unit.kept_grad_bytes = drops ? 0 : time * width * number_bytes(unit);
  // Over a tensor axis the outputs of both norms are gathered, and the gradients behind both sums.
  unit.tensor = {true,
                 {{"positions", time}, {"heads", heads}},
                 time * 2 * width * number_bytes(unit),
                 time * 4 * width * number_bytes(unit)};
  unit.input.tensor_axis = unit.output.tensor_axis = 1;
  add_position_collectives(unit, width, 2);
  add_replicated_sum(unit);
}

// ln_f, then logits over the vocabulary; with `tied_to` the matrix is the token embedding's.
void describe_lm_head(plan::Unit& unit) {
  const int64_t vocab = size_of(unit, "vocab");
  const int64_t width = size_of(unit, "width");
  require_width(unit, width);
  add_norm(unit, "ln_f", width, flag(unit, "bias"));
  add_cut_parameter(unit, "lm_head.weight", {vocab, width}, normal(kStd), 0);
  unit.parameters.back().tied_to = text(unit, "tied_to");
  const int64_t time = unit.input.shape[1];
  unit.output = {DType::kF32, {-1, time, vocab}};
  const double flops =
      2.0 * static_cast<double>(time) * static_cast<double>(vocab) * static_cast<double>(width);
  unit.flops = {flops, flops, flops};
  unit.saved_bytes =
      time * (width * number_bytes(unit) + 2 * kFloatBytes);  // ln_f's output, mean and deviation
  unit.deferred_bytes =
      time * (width + vocab) * number_bytes(unit);  // ln_f's output and the gradient of the logits
  unit.kept_saved_bytes = time * width * number_bytes(unit);
  unit.kept_grad_bytes = time * vocab * number_bytes(unit);
  cut_head(unit, width);
}

}  // namespace furrow::models
