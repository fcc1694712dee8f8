#include "furrow/models/lora.h"

#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/models/unit_builder.h"

namespace furrow::models {
namespace {

// The weights that a block multiplies its input with as linear layers do (tensor/ops_torch.h, linear and
// linear_side_by_side): by kind, the ends of their names.
struct LinearLayers {
  std::string_view kind;
  std::array<std::string_view, 7> weights;
};
constexpr LinearLayers kLayers[] = {
    {"linear", {"weight"}},
    {"transformer_block",
     {"attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"}},
    {"lm_head", {"lm_head.weight"}},
    {"llama_block",
     {"self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight",
      "self_attn.o_proj.weight", "mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"}},
    {"llama_head", {"lm_head.weight"}},
    {"rnn", {"i2o.weight"}},
};

constexpr std::string_view kWeight = ".weight";

bool is_linear(const plan::Unit& unit, const plan::Parameter& parameter) {
  if (parameter.tied() || parameter.shape.size() != 2 || !parameter.name.ends_with(kWeight)) return false;
  for (const LinearLayers& layers : kLayers) {
    if (layers.kind != unit.kind) continue;
    return std::ranges::any_of(layers.weights, [&](std::string_view end) {
      return !end.empty() && (parameter.name == end || parameter.name.ends_with("." + std::string(end)));
    });
  }
  return false;
}

std::string layer_of(const plan::Parameter& weight) {
  return weight.name.substr(0, weight.name.size() - kWeight.size());
}

void adapt(const config::Lora& config, size_t index, plan::Unit* unit) {
  const plan::Parameter weight = unit->parameters[index];
  const int64_t out = weight.shape[0], in = weight.shape[1];
  if (config.rank >= std::min(in, out)) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format(
            "[lora] rank {} is not below the sizes {} x {} of {}: lower it, or leave the layer out of "
            "targets",
            config.rank, out, in, layer_of(weight)));
  }
  const auto add = [&](const char* end, Shape shape, plan::Init init) {
    plan::Parameter parameter;
    parameter.name = layer_of(weight) + end;
    parameter.shape = std::move(shape);
    parameter.init = init;
    unit->parameters.push_back(std::move(parameter));
    return static_cast<int>(unit->parameters.size()) - 1;
  };
  plan::Adapter adapter;
  adapter.weight = static_cast<int>(index);
  adapter.a = add(".lora_A.weight", {config.rank, in}, uniform_fan_in(in));
  adapter.b = add(".lora_B.weight", {out, config.rank}, zeros());
  adapter.scale = config.alpha / static_cast<double>(config.rank);
  adapter.dropout = config.dropout;
  unit->adapters.push_back(adapter);

  int64_t rows = 1;
  for (size_t i = 1; i + 1 < unit->output.shape.size(); ++i) rows *= unit->output.shape[i];
  const double flops =
      2.0 * static_cast<double>(rows) * static_cast<double>(config.rank) * static_cast<double>(in + out);
  unit->flops.forward += flops;
  unit->flops.backward_input += flops;
  unit->flops.backward_weight += flops;
  unit->saved_bytes += rows * config.rank * kFloatBytes;
  unit->deferred_bytes += rows * (out + config.rank) * kFloatBytes;
}

}  // namespace

void apply_lora(const config::Lora& config, plan::ModelSpec* spec) {
  if (config.rank == 0) return;
  std::string layers;
  std::vector<bool> found(config.targets.size(), false);
  for (plan::Unit& unit : spec->units) {
    const size_t count = unit.parameters.size();
    for (size_t i = 0; i < count; ++i) {
      unit.parameters[i].rule.frozen = true;
      if (!is_linear(unit, unit.parameters[i])) continue;
      const std::string layer = layer_of(unit.parameters[i]);
      layers += (layers.empty() ? "" : ", ") + layer;
      bool matches = false;
      for (size_t t = 0; t < found.size(); ++t) {
        if (fnmatch(config.targets[t].c_str(), layer.c_str(), 0) != 0) continue;
        matches = found[t] = true;
      }
      if (matches) adapt(config, i, &unit);
    }
  }
  for (size_t t = 0; t < found.size(); ++t) {
    if (found[t]) continue;
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("[lora] targets: '{}' matches no linear layer; they are {}", config.targets[t],
                            layers.empty() ? "none" : layers));
  }
  if (found.empty())
    throw Error(ErrorCode::kInvalidArgument, "[lora] targets is empty: nothing would be trained");
  plan::validate(*spec);
}

}  // namespace furrow::models
