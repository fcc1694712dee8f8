#include "furrow/models/lora.h"

#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/models/unit_builder.h"

namespace furrow::models {
namespace {

// What a layer does with its weight, and so the shapes of what stands beside it.
enum class Form : uint8_t {
  kLinear,
  kConvolution,
  kRecurrent,  // a linear layer that reads what it said one step before
  kTable,      // its rows are looked up
};

// The layers of a block that take an adapter (tensor/ops_torch.h): the ends of their weights' names.
struct Layers {
  std::string_view kind;
  Form form = Form::kLinear;
  std::array<std::string_view, 7> weights;
  bool reads_input = false;  // they read the unit's input itself
};
constexpr Layers kLayers[] = {
    {"linear", Form::kLinear, {"weight"}, true},
    {"transformer_block",
     Form::kLinear,
     {"attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"}},
    {"lm_head", Form::kLinear, {"lm_head.weight"}},
    {"llama_block",
     Form::kLinear,
     {"self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight",
      "self_attn.o_proj.weight", "mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"}},
    {"llama_head", Form::kLinear, {"lm_head.weight"}},
    {"pool_linear", Form::kLinear, {"weight"}},
    {"rnn", Form::kLinear, {"i2o.weight"}},
    {"rnn", Form::kRecurrent, {"i2h.weight"}},
    {"lstm", Form::kRecurrent, {"i2h.weight"}},
    {"conv_relu_pool", Form::kConvolution, {"weight"}, true},
    {"conv_norm", Form::kConvolution, {"conv1.weight"}, true},
    {"residual_block", Form::kConvolution, {"conv1.weight", "downsample.0.weight"}, true},
    {"residual_block", Form::kConvolution, {"conv2.weight"}},
    {"token_embedding", Form::kTable, {"wte.weight", "wpe.weight"}, true},
    {"embedding", Form::kTable, {"weight"}, true},
};

// Architectures whose [model] tie_embeddings can say that two weights, once tied, are not any more.
constexpr std::string_view kCanUntie[] = {"gpt", "llama"};

bool ends_with_part(std::string_view name, std::string_view end) {
  if (!name.ends_with(end)) return false;
  return name.size() == end.size() || name[name.size() - end.size() - 1] == '.';
}

// Null: nothing stands beside it.
const Layers* layers_of(const plan::Unit& unit, const plan::Parameter& parameter) {
  if (parameter.borrowed) return nullptr;
  for (const Layers& layers : kLayers) {
    if (layers.kind != unit.kind) continue;
    const bool found = std::ranges::any_of(layers.weights, [&](std::string_view end) {
      return !end.empty() && ends_with_part(parameter.name, end);
    });
    if (found) return &layers;
  }
  return nullptr;
}

// "h.0.ln_1" of "h.0.ln_1.weight".
std::string layer_of(const plan::Parameter& parameter) {
  return parameter.name.substr(0, parameter.name.rfind('.'));
}

bool matches(const std::string& pattern, const std::string& layer) {
  return fnmatch(pattern.c_str(), layer.c_str(), 0) == 0 ||
         fnmatch(("*." + pattern).c_str(), layer.c_str(), 0) == 0;
}

int64_t optional_size(const plan::Unit& unit, const char* key, int64_t otherwise) {
  return unit.attributes.contains(key) ? plan::attribute<int64_t>(unit, key) : otherwise;
}

// How often a layer multiplies for one sample: positions, or the pixels behind a convolution.
int64_t rows_of(const plan::Unit& unit, Form form, const plan::Parameter& weight) {
  const Shape& out = unit.output.shape;
  if (form == Form::kConvolution && unit.attributes.contains("padding")) {  // a pool may follow
    const int64_t border = 2 * plan::attribute<int64_t>(unit, "padding") - weight.shape[2];
    const int64_t stride = optional_size(unit, "stride", 1);
    return ((unit.input.shape[2] + border) / stride + 1) * ((unit.input.shape[3] + border) / stride + 1);
  }
  if (form == Form::kConvolution) return out[2] * out[3];
  int64_t rows = 1;
  for (size_t i = 1; i + 1 < out.size(); ++i) rows *= out[i];
  return rows;
}

// Of an adapter: how often it multiplies and by how much, and what it reads, elements of a sample.
struct Sizes {
  int64_t rows = 0, rank = 0, in = 0, out = 0;
  int64_t read = 0;
};

// Products with the two thin matrices, and what the block keeps for their backward: what A reads where it is
// neither the unit's input nor kept anyway, A's output, and the gradients behind both.
void add_costs(const Layers& layers, const Sizes& s, plan::Adapter* adapter, plan::Unit* unit) {
  const double flops = 2.0 * static_cast<double>(s.rows) * static_cast<double>(s.rank);
  const double a = flops * static_cast<double>(s.in), b = flops * static_cast<double>(s.out);
  const int64_t bytes = number_bytes(*unit);
  if (layers.form == Form::kRecurrent) {  // by its sum with W, once for all samples; thin products backward
    unit->flops.backward_weight += 2 * (a + b);
    adapter->deferred_bytes = s.rows * (s.in + s.out) * kFloatBytes;
  } else {
    const bool looks_up = layers.form == Form::kTable, copies = adapter->dropout > 0;
    unit->flops.forward += looks_up ? b : a + b;
    unit->flops.backward_input += looks_up ? b : a + b;
    unit->flops.backward_weight += looks_up ? b : a + b;
    unit->saved_bytes += (s.rows * s.rank + (copies ? s.read : 0)) * bytes;
    adapter->deferred_bytes =
        (s.rows * (2 * s.rank + s.out) + (copies || !layers.reads_input ? s.read : 0)) * bytes;
  }
  unit->deferred_bytes += adapter->deferred_bytes;
}

void require_below(const config::Lora& config, const std::string& layer, const Sizes& sizes) {
  if (config.rank < std::min(sizes.in, sizes.out)) return;
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("[lora] rank {} is not below the sizes {} x {} of {}: lower it, or leave the layer "
                          "out of target_modules",
                          config.rank, sizes.out, sizes.in, layer));
}

void require_no_dropout(const config::Lora& config, const std::string& layer) {
  if (config.dropout == 0) return;
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("[lora] dropout {}: {} reads what it said one step before, all steps in one pass "
                          "over one weight, so nothing is dropped on the way: set dropout = 0, or leave the "
                          "layer out of target_modules",
                          config.dropout, layer));
}

int64_t elements(const plan::TensorSpec& border) { return num_elements(std::span(border.shape).subspan(1)); }

// A convolution with an adapter does its activation and its pool apart: what ReLU let through is kept, and
// which pixels the pool took.
void add_separate_pool(int64_t pixels, plan::Unit* unit) {
  if (unit->kind != "conv_relu_pool") return;
  const bool pool = flag(*unit, "pool");
  if (pool || flag(*unit, "relu")) unit->saved_bytes += pixels * number_bytes(*unit);
  if (pool) unit->saved_bytes += elements(unit->output) * static_cast<int64_t>(sizeof(int64_t));
}

// Sizes of the adapter of a weight, and what its matrices are called and start as: PEFT's.
struct Matrices {
  Sizes sizes;
  Shape a, b;
  std::string a_name, b_name;
  plan::Init a_init, b_init;
};

Matrices matrices_of(int64_t rank, const Layers& layers, const plan::Unit& unit,
                     const plan::Parameter& weight) {
  const std::string layer = layer_of(weight);
  const Shape& shape = weight.shape;
  const int64_t first = shape[0], rest = num_elements(shape) / first;
  const int64_t rows = rows_of(unit, layers.form, weight);
  switch (layers.form) {
    case Form::kTable:
      return {{rows, rank, first, rest, 0}, {rank, first}, {rest, rank}, layer + ".lora_embedding_A",
              layer + ".lora_embedding_B",  zeros(),       normal(1)};
    case Form::kConvolution: {
      const int64_t read = layers.reads_input ? elements(unit.input) : rows * shape[1];
      return {{rows, rank, rest, first, read},
              {rank, shape[1], shape[2], shape[3]},
              {first, rank, 1, 1},
              layer + ".lora_A.weight",
              layer + ".lora_B.weight",
              uniform_fan_in(rest),
              zeros()};
    }
    default:
      return {{rows, rank, rest, first, rows * rest},
              {rank, rest},
              {first, rank},
              layer + ".lora_A.weight",
              layer + ".lora_B.weight",
              uniform_fan_in(rest),
              zeros()};
  }
}

int add_matrix(std::string name, Shape shape, plan::Init init, plan::Unit* unit) {
  plan::Parameter parameter;
  parameter.name = std::move(name);
  parameter.shape = std::move(shape);
  parameter.init = init;
  parameter.adapter = true;
  unit->parameters.push_back(std::move(parameter));
  return static_cast<int>(unit->parameters.size()) - 1;
}

void adapt(const config::Lora& config, const Layers& layers, size_t index, plan::Unit* unit) {
  const plan::Parameter& weight = unit->parameters[index];
  const Matrices matrices = matrices_of(config.rank, layers, *unit, weight);
  require_below(config, layer_of(weight), matrices.sizes);
  if (layers.form == Form::kRecurrent) require_no_dropout(config, layer_of(weight));
  plan::Adapter adapter;
  adapter.weight = static_cast<int>(index);
  adapter.a = add_matrix(matrices.a_name, matrices.a, matrices.a_init, unit);
  adapter.b = add_matrix(matrices.b_name, matrices.b, matrices.b_init, unit);
  adapter.table = layers.form == Form::kTable;
  adapter.scale = config.alpha / static_cast<double>(config.rank);
  adapter.dropout = adapter.table ? 0 : config.dropout;
  add_costs(layers, matrices.sizes, &adapter, unit);
  add_separate_pool(matrices.sizes.rows * matrices.sizes.out, unit);
  unit->adapters.push_back(adapter);
  unit->tensor = {};  // no axis cuts a layer with an adapter
}

// Whether it is one of two tied weights.
bool in_a_tie(const plan::ModelSpec& spec, const plan::Parameter& parameter) {
  if (parameter.tied()) return true;
  return std::ranges::any_of(spec.units, [&](const plan::Unit& unit) {
    return std::ranges::any_of(unit.parameters,
                               [&](const plan::Parameter& other) { return other.tied_to == parameter.name; });
  });
}

void require_untieable(const plan::ModelSpec& spec, const std::string& layer) {
  if (std::ranges::find(kCanUntie, spec.architecture) != std::end(kCanUntie)) return;
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("[lora] target_modules: the weight of {} is tied to another, and merged with an "
                          "adapter it would be no more: give the units weights of their own, or leave the "
                          "layer out",
                          layer));
}

// Notes which targets match; those of a layer that some do.
class Targets {
 public:
  explicit Targets(const std::vector<std::string>& patterns) : patterns_(patterns), found_(patterns.size()) {}

  // `apart`: only a pattern that names it counts, "*" alone does not.
  bool match(const std::string& layer, bool apart) {
    layers_ += (layers_.empty() ? "" : ", ") + layer;
    bool any = false;
    for (size_t t = 0; t < patterns_.size(); ++t) {
      if (apart && patterns_[t].find_first_not_of('*') == std::string::npos) continue;
      if (matches(patterns_[t], layer)) any = found_[t] = true;
    }
    return any;
  }

  // A parameter that takes no adapter.
  void pass(const plan::Unit& unit, const plan::Parameter& parameter) {
    others_.push_back({layer_of(parameter), parameter.name + " of a " + unit.kind});
  }

  void require_all() const {
    if (patterns_.empty())
      throw Error(ErrorCode::kInvalidArgument, "[lora] target_modules is empty: nothing would be trained");
    for (size_t t = 0; t < patterns_.size(); ++t) {
      if (!found_[t]) refuse(patterns_[t]);
    }
  }

 private:
  struct Other {
    std::string layer, what;
  };

  [[noreturn]] void refuse(const std::string& pattern) const {
    const auto other =
        std::ranges::find_if(others_, [&](const Other& each) { return matches(pattern, each.layer); });
    const std::string found =
        other == others_.end()
            ? "no layer that takes an adapter"
            : fmt::format("{}, beside which no adapter stands: it is no matrix that multiplies and no table",
                          other->what);
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("[lora] target_modules: '{}' matches {}; layers that take one are {}", pattern,
                            found, layers_.empty() ? "none" : layers_));
  }

  const std::vector<std::string>& patterns_;
  std::vector<bool> found_;
  std::string layers_;
  std::vector<Other> others_;
};

// Tied weights of which one has an adapter and the other has not, or another one.
std::set<std::string> parted(const plan::ModelSpec& spec) {
  std::set<std::string> adapted, parted;
  for (const plan::Unit& unit : spec.units) {
    for (const plan::Adapter& adapter : unit.adapters)
      adapted.insert(unit.parameters[static_cast<size_t>(adapter.weight)].name);
  }
  for (const plan::Unit& unit : spec.units) {
    for (const plan::Parameter& parameter : unit.parameters) {
      if (parameter.tied() && (adapted.contains(parameter.name) || adapted.contains(parameter.tied_to)))
        parted.insert(parameter.name);
    }
  }
  return parted;
}

}  // namespace

void apply_lora(const config::Lora& config, plan::ModelSpec* spec) {
  if (config.rank == 0) return;
  Targets targets(config.target_modules);
  for (plan::Unit& unit : spec->units) {
    const size_t count = unit.parameters.size();
    for (size_t i = 0; i < count; ++i) {
      unit.parameters[i].rule.frozen = true;
      const plan::Parameter& parameter = unit.parameters[i];
      const Layers* layers = layers_of(unit, parameter);
      if (layers == nullptr) {
        targets.pass(unit, parameter);
        continue;
      }
      const bool tied = in_a_tie(*spec, parameter);
      const std::string layer = layer_of(parameter);
      if (!targets.match(layer, tied || layers->form == Form::kTable)) continue;
      if (tied) require_untieable(*spec, layer);
      adapt(config, *layers, i, &unit);
    }
  }
  targets.require_all();
  plan::validate(*spec);
}

plan::ModelSpec merged_network(plan::ModelSpec spec) {
  const std::set<std::string> untied = parted(spec);
  for (plan::Unit& unit : spec.units) {
    std::erase_if(unit.parameters, [](const plan::Parameter& parameter) { return parameter.adapter; });
    unit.adapters.clear();
    for (plan::Parameter& parameter : unit.parameters) {
      if (untied.contains(parameter.name)) parameter.tied_to.clear();
    }
  }
  return spec;
}

config::Model merged_model(config::Model model, const plan::ModelSpec& spec) {
  if (!parted(spec).empty()) model.tie_embeddings = false;
  return model;
}

}  // namespace furrow::models
