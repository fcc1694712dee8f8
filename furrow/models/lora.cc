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

// The weights that a block multiplies with as linear layers do (tensor/ops_torch.h, linear and
// linear_side_by_side): by kind, the ends of their names.
struct LinearLayers {
  std::string_view kind;
  std::array<std::string_view, 7> weights;
  bool read_input = false;  // they multiply the unit's input itself
};
constexpr LinearLayers kLayers[] = {
    {"linear", {"weight"}, true},
    {"transformer_block",
     {"attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"}},
    {"lm_head", {"lm_head.weight"}},
    {"llama_block",
     {"self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight",
      "self_attn.o_proj.weight", "mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"}},
    {"llama_head", {"lm_head.weight"}},
    {"rnn", {"i2o.weight"}},
    {"pool_linear", {"weight"}},
};

constexpr std::string_view kWeight = ".weight";

// Null: it is no linear layer's.
const LinearLayers* linear_layers(const plan::Unit& unit, const plan::Parameter& parameter) {
  if (parameter.tied() || parameter.shape.size() != 2 || !parameter.name.ends_with(kWeight)) return nullptr;
  for (const LinearLayers& layers : kLayers) {
    if (layers.kind != unit.kind) continue;
    const bool found = std::ranges::any_of(layers.weights, [&](std::string_view end) {
      return !end.empty() && (parameter.name == end || parameter.name.ends_with("." + std::string(end)));
    });
    return found ? &layers : nullptr;
  }
  return nullptr;
}

std::string layer_of(const plan::Parameter& weight) {
  return weight.name.substr(0, weight.name.size() - kWeight.size());
}

bool matches(const std::string& pattern, const std::string& layer) {
  return fnmatch(pattern.c_str(), layer.c_str(), 0) == 0 ||
         fnmatch(("*." + pattern).c_str(), layer.c_str(), 0) == 0;
}

// Products with the two thin matrices, and what the block keeps for their backward: what A reads where it is
// neither the unit's input nor kept anyway, A's output, and the gradients behind both.
void add_costs(const config::Lora& config, bool reads_input, plan::Adapter* adapter, plan::Unit* unit) {
  const int64_t in = unit->parameters[adapter->a].shape[1], out = unit->parameters[adapter->b].shape[0];
  int64_t rows = 1;
  for (size_t i = 1; i + 1 < unit->output.shape.size(); ++i) rows *= unit->output.shape[i];
  const double flops =
      2.0 * static_cast<double>(rows) * static_cast<double>(config.rank) * static_cast<double>(in + out);
  unit->flops.forward += flops;
  unit->flops.backward_input += flops;
  unit->flops.backward_weight += flops;
  const bool copies = config.dropout > 0;
  const int64_t row_bytes = rows * number_bytes(*unit);
  unit->saved_bytes += row_bytes * (config.rank + (copies ? in : 0));
  adapter->deferred_bytes = row_bytes * (2 * config.rank + out + (copies || !reads_input ? in : 0));
  unit->deferred_bytes += adapter->deferred_bytes;
}

void adapt(const config::Lora& config, size_t index, bool reads_input, plan::Unit* unit) {
  const plan::Parameter weight = unit->parameters[index];
  const int64_t out = weight.shape[0], in = weight.shape[1];
  if (config.rank >= std::min(in, out)) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format(
            "[lora] rank {} is not below the sizes {} x {} of {}: lower it, or leave the layer out of "
            "target_modules",
            config.rank, out, in, layer_of(weight)));
  }
  const auto add = [&](const char* end, Shape shape, plan::Init init) {
    plan::Parameter parameter;
    parameter.name = layer_of(weight) + end;
    parameter.shape = std::move(shape);
    parameter.init = init;
    parameter.adapter = true;
    unit->parameters.push_back(std::move(parameter));
    return static_cast<int>(unit->parameters.size()) - 1;
  };
  plan::Adapter adapter;
  adapter.weight = static_cast<int>(index);
  adapter.a = add(".lora_A.weight", {config.rank, in}, uniform_fan_in(in));
  adapter.b = add(".lora_B.weight", {out, config.rank}, zeros());
  adapter.scale = config.alpha / static_cast<double>(config.rank);
  adapter.dropout = config.dropout;
  add_costs(config, reads_input, &adapter, unit);
  unit->adapters.push_back(adapter);
}

// Notes which targets match; those of a layer that some do.
class Targets {
 public:
  explicit Targets(const std::vector<std::string>& patterns) : patterns_(patterns), found_(patterns.size()) {}

  bool match(const std::string& layer) {
    layers_ += (layers_.empty() ? "" : ", ") + layer;
    bool any = false;
    for (size_t t = 0; t < patterns_.size(); ++t) {
      if (matches(patterns_[t], layer)) any = found_[t] = true;
    }
    return any;
  }

  void require_all() const {
    if (patterns_.empty())
      throw Error(ErrorCode::kInvalidArgument, "[lora] target_modules is empty: nothing would be trained");
    for (size_t t = 0; t < patterns_.size(); ++t) {
      if (found_[t]) continue;
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("[lora] target_modules: '{}' matches no linear layer; they are {}",
                              patterns_[t], layers_.empty() ? "none" : layers_));
    }
  }

 private:
  const std::vector<std::string>& patterns_;
  std::vector<bool> found_;
  std::string layers_;
};

}  // namespace

void apply_lora(const config::Lora& config, plan::ModelSpec* spec) {
  if (config.rank == 0) return;
  Targets targets(config.target_modules);
  for (plan::Unit& unit : spec->units) {
    const size_t count = unit.parameters.size();
    for (size_t i = 0; i < count; ++i) {
      unit.parameters[i].rule.frozen = true;
      const LinearLayers* layers = linear_layers(unit, unit.parameters[i]);
      if (layers == nullptr) continue;
      if (targets.match(layer_of(unit.parameters[i]))) adapt(config, i, layers->read_input, &unit);
    }
  }
  targets.require_all();
  plan::validate(*spec);
}

}  // namespace furrow::models
