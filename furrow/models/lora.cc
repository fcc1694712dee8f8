#include "furrow/models/lora.h"

#include <fmt/format.h>

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
#include "furrow/models/lora_targets.h"
#include "furrow/models/lora_ties.h"
#include "furrow/models/unit_builder.h"
#include "furrow/plan/tensor_cut.h"
#include "furrow/plan/topology.h"

namespace furrow::models {
namespace {

// The layers of a block that take an adapter (tensor/ops_torch.h): the ends of their weights' names,
// of linear layers in the order of their products.
struct Layers {
  std::string_view kind;
  AdapterForm form = AdapterForm::kLinear;
  std::array<std::string_view, 7> weights;
  std::string_view reads;  // by weight: those of one letter read one tensor, kUnitInput the unit's own
};
constexpr char kUnitInput = 'x';
constexpr Layers kLayers[] = {
    {"linear", AdapterForm::kLinear, {"weight"}, "x"},
    {"transformer_block",
     AdapterForm::kLinear,
     {"attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"},
     "abcd"},
    {"lm_head", AdapterForm::kLinear, {"lm_head.weight"}, "a"},
    {"llama_block",
     AdapterForm::kLinear,
     {"self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight",
      "self_attn.o_proj.weight", "mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"},
     "aaabccd"},
    {"llama_head", AdapterForm::kLinear, {"lm_head.weight"}, "a"},
    {"pool_linear", AdapterForm::kLinear, {"weight"}, "a"},
    {"rnn", AdapterForm::kLinear, {"i2o.weight"}, "a"},
    {"rnn", AdapterForm::kRecurrent, {"i2h.weight"}, "a"},
    {"lstm", AdapterForm::kRecurrent, {"i2h.weight"}, "a"},
    {"conv_relu_pool", AdapterForm::kConvolution, {"weight"}, "x"},
    {"conv", AdapterForm::kConvolution, {"weight"}, "x"},
    {"conv_norm", AdapterForm::kConvolution, {"conv1.weight"}, "x"},
    {"residual_block",
     AdapterForm::kConvolution,
     {"conv1.weight", "conv2.weight", "downsample.0.weight"},
     "xax"},
    {"bottleneck_block",
     AdapterForm::kConvolution,
     {"conv1.weight", "conv2.weight", "conv3.weight", "downsample.0.weight"},
     "xabx"},
    {"token_embedding", AdapterForm::kTable, {"wte.weight", "wpe.weight"}, "xx"},
    {"embedding", AdapterForm::kTable, {"weight"}, "x"},
};

// Architectures whose [model] tie_embeddings can say that two weights, once tied, are not any more.
constexpr std::string_view kCanUntie[] = {"gpt", "llama"};

bool ends_with_part(std::string_view name, std::string_view end) {
  if (!name.ends_with(end)) return false;
  return name.size() == end.size() || name[name.size() - end.size() - 1] == '.';
}

// The row of a weight, and its letter there.
struct Place {
  const Layers* layers = nullptr;  // nothing stands beside it
  char reads = 0;
  bool last = false;  // nothing multiplies behind it
};

Place place_of(const plan::Unit& unit, const plan::Parameter& parameter) {
  for (const Layers& layers : kLayers) {
    if (layers.kind != unit.kind) continue;
    for (size_t i = 0; i < layers.reads.size(); ++i) {
      if (!ends_with_part(parameter.name, layers.weights[i])) continue;
      return {&layers, layers.reads[i], layers.form == AdapterForm::kTable || i + 1 == layers.reads.size()};
    }
  }
  return {};
}

int64_t optional_size(const plan::Unit& unit, const char* key, int64_t otherwise) {
  return unit.attributes.contains(key) ? plan::attribute<int64_t>(unit, key) : otherwise;
}

// How often a layer multiplies for one sample: positions, or the pixels behind a convolution.
int64_t rows_of(const plan::Unit& unit, AdapterForm form, const plan::Parameter& weight) {
  const Shape& out = unit.output.shape;
  if (form == AdapterForm::kConvolution && unit.attributes.contains("padding")) {  // a pool may follow
    const int64_t border = 2 * plan::attribute<int64_t>(unit, "padding") - weight.shape[2];
    const int64_t stride = optional_size(unit, "stride", 1);
    return ((unit.input.shape[2] + border) / stride + 1) * ((unit.input.shape[3] + border) / stride + 1);
  }
  // The stride of a bottleneck comes behind its first convolution.
  const bool before_stride = unit.kind == "bottleneck_block" && ends_with_part(weight.name, "conv1.weight");
  if (before_stride) return unit.input.shape[2] * unit.input.shape[3];
  if (form == AdapterForm::kConvolution) return out[2] * out[3];
  int64_t rows = 1;
  for (size_t i = 1; i + 1 < out.size(); ++i) rows *= out[i];
  return rows;
}

void require_fit(const config::Lora& config, const std::string& layer, const AdapterSizes& sizes) {
  if (fits(config, sizes)) return;
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

// AdapterSizes of the adapter of a weight, and what its matrices are called and start as: PEFT's.
struct Matrices {
  AdapterSizes sizes;
  Shape a, b;
  std::string a_name, b_name;
  plan::Init a_init, b_init;
};

Matrices matrices_of(int64_t rank, const Place& place, const plan::Unit& unit,
                     const plan::Parameter& weight) {
  const std::string layer = layer_of(weight);
  const Shape& shape = weight.shape;
  const int64_t first = shape[0], rest = num_elements(shape) / first;
  const int64_t rows = rows_of(unit, place.layers->form, weight);
  switch (place.layers->form) {
    case AdapterForm::kTable:
      return {{rows, rank, first, rest, 0}, {rank, first}, {rest, rank}, layer + ".lora_embedding_A",
              layer + ".lora_embedding_B",  zeros(),       normal(1)};
    case AdapterForm::kConvolution: {
      const int64_t read = place.reads == kUnitInput ? elements(unit.input) : rows * shape[1];
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

// Over a tensor axis the matrix that stands at the side that is cut is cut as the weight, and the other is
// whole, with a gradient that has a part on every rank.  Positions, whose table is whole, are a rank's own.
void cut_matrices(const plan::Parameter& weight, bool table, plan::Parameter* a, plan::Parameter* b) {
  const bool outputs = weight.tensor_axis == 0 && !table;
  a->summed = outputs || weight.tensor_axis < 0;
  b->summed = !outputs;
  if (weight.tensor_axis < 0) return;
  plan::Parameter* const cut = outputs ? b : a;
  cut->tensor_axis = outputs ? 0 : 1;
  cut->tensor_segments = weight.tensor_segments;
}

// What only a name of its own picks.
bool is_apart(const plan::ModelSpec& spec, const Place& place, const plan::Parameter& parameter) {
  return place.layers->form == AdapterForm::kTable || in_a_tie(spec, parameter);
}

void require_untieable(const plan::ModelSpec& spec, const std::string& layer) {
  if (std::ranges::find(kCanUntie, spec.architecture) != std::end(kCanUntie)) return;
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("[lora] target_modules: the weight of {} is tied to another, and merged with an "
                          "adapter it would be no more: give the units weights of their own, or leave the "
                          "layer out",
                          layer));
}

// Puts adapters beside the weights of one unit, and freezes those.
class UnitAdapters {
 public:
  // `passes`: backward goes on to the unit before.
  UnitAdapters(const config::Lora& config, bool passes, plan::Unit* unit)
      : config_(config), passes_(passes), unit_(*unit) {
    for (plan::Parameter& parameter : unit_.parameters) parameter.rule.frozen = true;
  }

  // Where targets pick the layer.
  void add(const plan::ModelSpec& spec, Targets* targets) {
    const size_t count = unit_.parameters.size();
    for (size_t i = 0; i < count; ++i) {
      const plan::Parameter& weight = unit_.parameters[i];
      const Place place = weight.borrowed ? Place() : place_of(unit_, weight);
      const std::string layer = layer_of(weight);
      if (place.layers == nullptr) {
        targets->pass(layer, fmt::format("{} of a {}, beside which no adapter stands: it is no matrix that "
                                         "multiplies and no table",
                                         weight.name, unit_.kind));
        continue;
      }
      const AdapterSizes sizes = matrices_of(config_.rank, place, unit_, weight).sizes;
      if (!targets->match({layer, sizes, is_apart(spec, place, weight)})) continue;
      if (in_a_tie(spec, weight)) require_untieable(spec, layer);
      require_fit(config_, layer, sizes);
      if (place.layers->form == AdapterForm::kRecurrent) require_no_dropout(config_, layer);
      adapt(place, i);
    }
  }

  // Those of the unit whose layers it runs once more: one adapter, used twice.
  void repeat(const plan::Unit& original, Targets* targets) {
    for (const plan::Parameter& weight : unit_.parameters) {
      targets->pass(layer_of(weight),
                    fmt::format("{}, which is {} once more: name that", layer_of(weight), original.name));
    }
    for (const plan::Adapter& adapter : original.adapters) {
      const auto index = static_cast<size_t>(adapter.weight);
      const bool borrowed = unit_.parameters[index].borrowed;
      adapt(place_of(unit_, unit_.parameters[index]), index);
      for (const auto& [own, owner] :
           {std::pair(unit_.adapters.back().a, adapter.a), {unit_.adapters.back().b, adapter.b}}) {
        plan::Parameter& matrix = unit_.parameters[static_cast<size_t>(own)];
        matrix.tied_to = original.parameters[static_cast<size_t>(owner)].name;
        matrix.borrowed = borrowed;
      }
    }
  }

  // Whether it, or what it reads, gets gradients.
  bool trains() const {
    const auto trained = [&](const plan::Adapter& adapter) {
      return !unit_.parameters[static_cast<size_t>(adapter.a)].borrowed;
    };
    return passes_ || std::ranges::any_of(unit_.adapters, trained);
  }

 private:
  void adapt(const Place& place, size_t index) {
    const plan::Parameter weight = unit_.parameters[index];
    const Layers& layers = *place.layers;
    const Matrices matrices = matrices_of(config_.rank, place, unit_, weight);
    plan::Adapter adapter;
    adapter.weight = static_cast<int>(index);
    adapter.a = add_matrix(matrices.a_name, matrices.a, matrices.a_init, &unit_);
    adapter.b = add_matrix(matrices.b_name, matrices.b, matrices.b_init, &unit_);
    adapter.table = layers.form == AdapterForm::kTable;
    adapter.scale = config_.alpha / static_cast<double>(config_.rank);
    adapter.dropout = adapter.table ? 0 : config_.dropout;
    if (unit_.tensor.possible)
      cut_matrices(weight, adapter.table, &unit_.parameters[static_cast<size_t>(adapter.a)],
                   &unit_.parameters[static_cast<size_t>(adapter.b)]);
    const bool already = read_.find(place.reads) != std::string::npos;
    const int axis = unit_.tensor.possible ? weight.tensor_axis : -1;
    const AdapterSurroundings where{layers.form, place.reads == kUnitInput, already, place.last, axis};
    add_adapter_costs(matrices.sizes, where, &adapter, &unit_);
    read_ += place.reads;
    add_separate_pool(matrices.sizes.rows * matrices.sizes.out, &unit_);
    unit_.adapters.push_back(adapter);
  }

  const config::Lora& config_;
  const bool passes_;
  plan::Unit& unit_;
  std::string read_;  // letters of the adapters so far
};

}  // namespace

void apply_lora(const config::Lora& config, plan::ModelSpec* spec) {
  if (config.rank == 0) return;
  Targets targets(config);
  std::vector<bool> trains(spec->units.size());  // the unit, or one that it reads
  for (size_t u = 0; u < spec->units.size(); ++u) {
    plan::Unit& unit = spec->units[u];
    const int32_t source = plan::source_of(*spec, static_cast<int32_t>(u));
    UnitAdapters adapters(config, source >= 0 && !unit.detached && trains[source], &unit);
    if (const plan::Unit* original = original_of(*spec, unit)) {
      adapters.repeat(*original, &targets);
    } else {
      adapters.add(*spec, &targets);
    }
    trains[u] = adapters.trains();
    plan::declare_gradient_sum(&unit);
  }
  targets.require_all();
  plan::validate(*spec);
}

std::string left_out_by_star(const config::Lora& config, const plan::ModelSpec& spec) {
  if (config.rank == 0 || std::ranges::none_of(config.target_modules, is_star)) return "";
  std::string layers;
  for (const plan::Unit& unit : spec.units) {
    if (unit.inference || original_of(spec, unit) != nullptr) continue;
    for (size_t i = 0; i < unit.parameters.size(); ++i) {
      const plan::Parameter& parameter = unit.parameters[i];
      const Place place = place_of(unit, parameter);
      if (place.layers == nullptr || parameter.adapter || is_apart(spec, place, parameter)) continue;
      if (std::ranges::find(unit.adapters, static_cast<int>(i), &plan::Adapter::weight) !=
          unit.adapters.end())
        continue;
      const AdapterSizes sizes = matrices_of(config.rank, place, unit, parameter).sizes;
      layers +=
          fmt::format("{}{} ({} x {})", layers.empty() ? "" : ", ", layer_of(parameter), sizes.out, sizes.in);
    }
  }
  if (layers.empty()) return "";
  return fmt::format("[lora] \"*\" leaves out {}: rank {} is not below their sizes", layers, config.rank);
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
