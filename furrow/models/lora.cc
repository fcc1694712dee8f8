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
  std::string_view reads;    // by weight: those of one letter read one tensor, kUnitInput the unit's own
  bool one_of_many = false;  // behind it, backward lets go of more than an adapter needs
};
constexpr char kUnitInput = 'x';
constexpr Layers kLayers[] = {
    {"linear", Form::kLinear, {"weight"}, "x"},
    {"transformer_block",
     Form::kLinear,
     {"attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"},
     "abcd",
     true},
    {"lm_head", Form::kLinear, {"lm_head.weight"}, "a"},
    {"llama_block",
     Form::kLinear,
     {"self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight",
      "self_attn.o_proj.weight", "mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"},
     "aaabccd",
     true},
    {"llama_head", Form::kLinear, {"lm_head.weight"}, "a"},
    {"pool_linear", Form::kLinear, {"weight"}, "a"},
    {"rnn", Form::kLinear, {"i2o.weight"}, "a"},
    {"rnn", Form::kRecurrent, {"i2h.weight"}, "a"},
    {"lstm", Form::kRecurrent, {"i2h.weight"}, "a"},
    {"conv_relu_pool", Form::kConvolution, {"weight"}, "x"},
    {"conv_norm", Form::kConvolution, {"conv1.weight"}, "x"},
    {"residual_block",
     Form::kConvolution,
     {"conv1.weight", "conv2.weight", "downsample.0.weight"},
     "xax",
     true},
    {"token_embedding", Form::kTable, {"wte.weight", "wpe.weight"}, "xx"},
    {"embedding", Form::kTable, {"weight"}, "x"},
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
};

Place place_of(const plan::Unit& unit, const plan::Parameter& parameter) {
  if (parameter.borrowed) return {};
  for (const Layers& layers : kLayers) {
    if (layers.kind != unit.kind) continue;
    for (size_t i = 0; i < layers.reads.size(); ++i) {
      if (ends_with_part(parameter.name, layers.weights[i])) return {&layers, layers.reads[i]};
    }
  }
  return {};
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

// Where it stands: whether it reads the unit's input or what another adapter has read already, and whether
// backward goes on to the unit before.
struct Surroundings {
  const Layers& layers;
  bool reads_input = false, read_already = false;
  bool passes = false;
};

plan::Flops products(const Sizes& s) {
  const double flops = 2.0 * static_cast<double>(s.rows) * static_cast<double>(s.rank);
  const double both = flops * static_cast<double>(s.in + s.out);
  return {both, both, both};
}

// Recurrent layers (tensor/recurrent.cc, tensor/adapter.cc): the sum with W is formed for as long as a call,
// once for all samples; only backward of weights has thin products.  What they read and the gradient are kept
// for W too; of 16 bits, blocks of so many rows are converted.
void add_recurrent_costs(const Sizes& s, const Surroundings& where, plan::Adapter* adapter,
                         plan::Unit* unit) {
  constexpr int64_t kWidenedRows = 64;
  const int64_t bytes = number_bytes(*unit), thin = s.rows * s.rank * kFloatBytes;
  const bool narrow = bytes < kFloatBytes;
  unit->flops.backward_weight += 2 * products(s).forward;
  for (plan::Scratch* scratch : {&unit->forward_scratch, &unit->backward_scratch})
    scratch->fixed_bytes += s.in * s.out * bytes;
  if (narrow && !where.passes && unit->kind == "rnn")  // it widens a gradient that nobody asks for
    unit->backward_scratch.sample_bytes -= s.rows * unit->input.shape.back() * kFloatBytes;
  // B times the scale and, of 16 bits, A and B and rows of what they read; behind A, twice.
  const int64_t widened = narrow ? (s.in + s.out) * (s.rank + kWidenedRows) : 0;
  unit->weight_scratch.fixed_bytes += (s.rank * s.out + widened) * kFloatBytes;
  if (!narrow) unit->weight_scratch.sample_bytes += 3 * thin;
  const int64_t read = where.read_already ? 0 : s.rows * s.in * bytes, dz = s.rows * s.out * bytes;
  adapter->deferred_bytes = adapter->kept_saved_bytes = read + dz;
}

// Whether a layer's activation follows its sum with the adapter.
bool activates(const plan::Unit& unit) {
  if (unit.kind == "linear") return activation(unit) != "none";
  return unit.kind == "transformer_block" || (unit.kind == "conv_relu_pool" && flag(unit, "relu"));
}

// Memory of a call: the second output and the second gradient of the input, until they are added to the
// layer's own.  Activations are of float32 numbers, which of 16 bits are copies, and so are their slopes.
void add_scratch(const Sizes& s, const Surroundings& where, plan::Unit* unit) {
  const int64_t bytes = number_bytes(*unit);
  const auto at_least = [](int64_t bytes, plan::Scratch* scratch) {
    scratch->sample_bytes = std::max(scratch->sample_bytes, bytes);
  };
  const bool narrow = bytes < kFloatBytes;
  at_least(s.rows * s.out * (narrow && activates(*unit) ? bytes + 2 * kFloatBytes : bytes),
           &unit->forward_scratch);
  if (where.layers.form == Form::kTable || where.layers.one_of_many) return;
  const int64_t thin = s.rows * s.rank * bytes;
  if (unit->kind != "rnn") return at_least(s.read * bytes + thin, &unit->backward_scratch);
  // Both are of the concatenation, and the unit's own comes later.
  const int64_t own = where.passes ? border_bytes(*unit, unit->input) : 0;
  at_least(2 * s.read * bytes + thin - own, &unit->backward_scratch);
}

// Products with the two thin matrices, and what the block keeps for their backward: what A reads where it is
// neither the unit's input nor kept anyway, A's output, and the gradients behind both.
void add_costs(const Sizes& s, const Surroundings& where, plan::Adapter* adapter, plan::Unit* unit) {
  if (where.layers.form == Form::kRecurrent) return add_recurrent_costs(s, where, adapter, unit);
  const bool looks_up = where.layers.form == Form::kTable;
  const plan::Flops flops = products(looks_up ? Sizes{s.rows, s.rank, 0, s.out} : s);
  unit->flops.forward += flops.forward;
  unit->flops.backward_input += flops.backward_input;
  unit->flops.backward_weight += flops.backward_weight;
  add_scratch(s, where, unit);
  const int64_t bytes = number_bytes(*unit), thin = s.rows * s.rank * bytes, dy = s.rows * s.out * bytes;
  const int64_t copy = adapter->dropout > 0 ? s.read * bytes : 0;
  unit->saved_bytes += thin + copy;
  const bool shared = where.reads_input || where.read_already;
  const int64_t read = copy > 0 ? copy : (shared ? 0 : s.read * bytes);
  const bool one_gradient = looks_up && where.read_already;  // of both tables
  adapter->kept_saved_bytes = thin + read;
  adapter->kept_grad_bytes =
      !one_gradient && where.layers.form != Form::kConvolution && dy == unit->kept_grad_bytes ? dy : 0;
  adapter->deferred_bytes = 2 * thin + read + (one_gradient ? 0 : dy);
  unit->deferred_bytes += 2 * thin + copy;
  unit->kept_saved_bytes += thin + copy;
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

Matrices matrices_of(int64_t rank, const Place& place, const plan::Unit& unit,
                     const plan::Parameter& weight) {
  const std::string layer = layer_of(weight);
  const Shape& shape = weight.shape;
  const int64_t first = shape[0], rest = num_elements(shape) / first;
  const int64_t rows = rows_of(unit, place.layers->form, weight);
  switch (place.layers->form) {
    case Form::kTable:
      return {{rows, rank, first, rest, 0}, {rank, first}, {rest, rank}, layer + ".lora_embedding_A",
              layer + ".lora_embedding_B",  zeros(),       normal(1)};
    case Form::kConvolution: {
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

// `read`: letters of the unit's adapters so far.  `passes`: backward goes on to the unit before.
void adapt(const config::Lora& config, const Place& place, size_t index, bool passes, std::string* read,
           plan::Unit* unit) {
  const plan::Parameter& weight = unit->parameters[index];
  const Layers& layers = *place.layers;
  const Matrices matrices = matrices_of(config.rank, place, *unit, weight);
  require_below(config, layer_of(weight), matrices.sizes);
  if (layers.form == Form::kRecurrent) require_no_dropout(config, layer_of(weight));
  plan::Adapter adapter;
  adapter.weight = static_cast<int>(index);
  adapter.a = add_matrix(matrices.a_name, matrices.a, matrices.a_init, unit);
  adapter.b = add_matrix(matrices.b_name, matrices.b, matrices.b_init, unit);
  adapter.table = layers.form == Form::kTable;
  adapter.scale = config.alpha / static_cast<double>(config.rank);
  adapter.dropout = adapter.table ? 0 : config.dropout;
  const bool already = read->find(place.reads) != std::string::npos;
  add_costs(matrices.sizes, {layers, place.reads == kUnitInput, already, passes}, &adapter, unit);
  *read += place.reads;
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
  bool passes = false;  // an adapter is to the left
  for (plan::Unit& unit : spec->units) {
    const size_t count = unit.parameters.size();
    std::string read;
    for (size_t i = 0; i < count; ++i) {
      unit.parameters[i].rule.frozen = true;
      const plan::Parameter& parameter = unit.parameters[i];
      const Place place = place_of(unit, parameter);
      if (place.layers == nullptr) {
        targets.pass(unit, parameter);
        continue;
      }
      const bool tied = in_a_tie(*spec, parameter);
      const std::string layer = layer_of(parameter);
      if (!targets.match(layer, tied || place.layers->form == Form::kTable)) continue;
      if (tied) require_untieable(*spec, layer);
      adapt(config, place, i, passes, &read, &unit);
    }
    passes = passes || !unit.adapters.empty();
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
