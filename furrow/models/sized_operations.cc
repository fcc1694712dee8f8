#include "furrow/models/sized_operations.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace furrow::models {
namespace {

using Memory = SizedOperations::Memory;
using Tensor = SizedOperations::Tensor;

constexpr int64_t kPlaceBytes = 8;

bool is_trained(const plan::Parameter& parameter) { return !parameter.rule.frozen && !parameter.borrowed; }

bool any_trains(const plan::Unit& unit) { return std::ranges::any_of(unit.parameters, is_trained); }

}  // namespace

SizedOperations::SizedOperations(const plan::Unit& unit, int64_t rows, bool shares_positions, int64_t samples)
    : unit_(unit),
      rows_(rows),
      degree_(unit.tensor_degree),
      all_rows_(shares_positions ? rows * degree_ : rows),
      bytes_(number_bytes(unit)),
      trains_(any_trains(unit)),
      tape_(samples) {}

SizedLayer SizedOperations::layer(std::string_view name, int64_t out, SizedCut cut) const {
  SizedLayer layer;
  layer.cut = degree_ > 1 ? cut : SizedCut::kNone;
  layer.out = layer.cuts_outputs() ? part(out) : out;
  for (size_t i = 0; i < unit_.parameters.size(); ++i) {
    if (!unit_.parameters[i].name.ends_with(name)) continue;
    layer.trains = is_trained(unit_.parameters[i]);
    layer.weight = unit_.parameters[i].size();
    layer.bias = vector(unit_.parameters[i].name.substr(0, unit_.parameters[i].name.rfind('.') + 1) + "bias");
    for (const plan::Adapter& adapter : unit_.adapters) {
      if (adapter.weight != static_cast<int>(i)) continue;
      const plan::Parameter &a = unit_.parameters[static_cast<size_t>(adapter.a)],
                            &b = unit_.parameters[static_cast<size_t>(adapter.b)];
      layer.adapter = &adapter;
      layer.rank = a.shape[0];
      layer.a = a.size();
      layer.b = b.size();
      layer.a_trains = is_trained(a);
      layer.b_trains = is_trained(b);
    }
    break;
  }
  return layer;
}

SizedVector SizedOperations::vector(std::string_view end_of_name) const {
  for (const plan::Parameter& parameter : unit_.parameters) {
    if (parameter.shape.size() == 1 && parameter.name.ends_with(end_of_name))
      return {parameter.size(), is_trained(parameter)};
  }
  return {};
}

SizedNorm SizedOperations::norm_parameters(const std::string& prefix) const {
  return {vector(prefix + "weight"), vector(prefix + "bias")};
}

Memory SizedOperations::put(const SizedVector& vector) {
  const Memory gradient = tape_.make(0, vector.elements * kFloatBytes);
  defer(vector.trains, gradient, nullptr);
  return gradient;
}

// tensor/half_rows.h: blocks of a microbatch's rows, of which the last may be a part of one.
std::vector<Memory> SizedOperations::put_sum(const SizedVector& vector, int64_t rows) {
  std::vector<Memory> held{put(vector)};
  if (!narrow()) return held;
  constexpr int64_t kLeastRows = 32, kElements = 1 << 14;
  const int64_t each = std::max(kLeastRows, kElements / std::max<int64_t>(vector.elements, 1));
  const int64_t all = rows * tape_.samples(), block = vector.elements * kFloatBytes;
  const int64_t bytes = (all + each - 1) / each * block, sample = all / each * block / tape_.samples();
  held.push_back(tape_.make(sample, bytes - sample * tape_.samples()));
  return held;
}

Memory SizedOperations::float_copy(int64_t elements) {
  return narrow() ? tape_.make(0, elements * kFloatBytes) : nullptr;
}

Memory SizedOperations::masked(const Memory& x, int64_t columns) {
  const Memory wide = widened(x, columns), out = floats(columns);
  return narrowed(out, columns);
}

Memory SizedOperations::all_masked(const Memory& x, int64_t columns) {
  const Memory wide = narrow() ? all_floats(columns) : x, out = all_floats(columns);
  return narrow() ? all_numbers(columns) : out;
}

void SizedOperations::defer(bool trains, const Memory& x, const Memory& dy) {
  if (trains) deferred_.insert(deferred_.end(), {x, dy});
}

Memory SizedOperations::gathered(const Memory& x, int64_t columns) {
  if (degree_ == 1) return x;
  const Memory slices = all_numbers(columns);
  return all_numbers(columns);
}

Memory SizedOperations::scattered_sum(int64_t columns) {
  const Memory slices = all_floats(columns);
  return floats(columns);
}

// What it reads once more is a copy of its own again.
Tensor SizedOperations::norm(const Tensor& x, int64_t columns, int64_t statistics,
                             const SizedNorm& parameters) {
  const Memory kept = floats(statistics), from = read(x, columns),
               weight = float_copy(parameters.weight.elements);
  const Memory wide = narrow() || copies(x) ? floats(columns) : from, y = floats(columns);
  const Memory out = narrowed(y, columns);
  return tape_.record(out, {x}, trains_, [this, from, kept, weight, columns, parameters](const Memory& dy) {
    const std::vector<Memory> held = put(parameters);
    const Memory wide_dy = widened(dy, columns), wide_x = widened(from, columns), dx = floats(columns);
    return std::vector{narrowed(dx, columns)};
  });
}

// libtorch's, on float32 copies; what comes is converted for the call alone.
Tensor SizedOperations::group_norm(const Tensor& x, int64_t columns, int64_t groups,
                                   const SizedNorm& parameters) {
  const Memory kept = floats(2 * groups), wide = widened(x.memory, columns), y = floats(columns);
  floats(2 * parameters.weight.elements);  // sums of channels
  const Memory out = narrowed(y, columns);
  return tape_.record(out, {x}, trains_, [this, x = x.memory, kept, columns, parameters](const Memory& dy) {
    const std::vector<Memory> held = put(parameters);
    const Memory wide_x = widened(x, columns);
    Memory wide_dy = widened(dy, columns), sums = floats(2 * parameters.weight.elements);
    const Memory dx = floats(columns);
    wide_dy.reset();
    sums.reset();
    return std::vector{narrowed(dx, columns)};
  });
}

Tensor SizedOperations::linear(const Tensor& x, int64_t in, const SizedLayer& layer,
                               KeptByActivation activation) {
  if (layer.adapter != nullptr) return linear_with_adapter(x, in, layer, activation);
  if (layer.cuts_inputs()) return summed(x, part(in), layer, activation);
  return plain(x, {in, layer.out, layer.trains, activation, layer.cut, layer.bias});
}

Tensor SizedOperations::plain(const Tensor& x, const Product& p) {
  const Memory whole = p.cut == SizedCut::kPositionsToColumns ? gathered(x.memory, p.in) : x.memory;
  const Memory read = p.reads_wide ? all_numbers(p.in) : whole;
  const Memory y = p.wide_output ? all_floats(p.out) : all_numbers(p.out);
  const bool slopes = recorded(x) && p.activation == KeptByActivation::kSlope;
  const Memory slope = slopes ? all_numbers(p.out) : nullptr;
  const Memory gate = p.activation == KeptByActivation::kOutput ? y : slope;
  const bool asks = x.needs_gradient();
  return tape_.record(y, {x}, trains_, [this, p, gate, asks, read](const Memory& given) {
    const bool copied = p.strided || (p.wide_output && narrow());
    const Memory dy = copied ? all_numbers(p.out) : given;
    std::vector<Memory> sums;
    if (p.bias.trains) sums = put_sum(p.bias, all_rows_);
    const Memory dz = p.activation != KeptByActivation::kNone ? all_numbers(p.out) : dy;
    sums.clear();
    defer(p.trains, read, dz);
    return std::vector{asks ? input_gradient(p) : nullptr};
  });
}

Memory SizedOperations::input_gradient(const Product& p) {
  if (p.wide_gradient) return all_floats(p.in);
  if (p.cut == SizedCut::kNone) return all_numbers(p.in);
  const Memory part = all_floats(p.in);
  const Memory sum = p.cut == SizedCut::kColumns ? part : scattered_sum(p.in);
  return narrowed(sum, p.in);
}

// A product over a part of the inputs: float32 sums, of which each rank keeps its own positions where they
// are shared.
Tensor SizedOperations::summed(const Tensor& x, int64_t in, const SizedLayer& layer,
                               KeptByActivation activation) {
  const bool asks = x.needs_gradient(), scatters = layer.cut == SizedCut::kRowsToPositions;
  const Memory part = all_floats(layer.out), sum = scatters ? scattered_sum(layer.out) : part;
  const bool slopes = recorded(x) && activation == KeptByActivation::kSlope;
  const Memory wide_slope = slopes ? floats(layer.out) : nullptr;
  const Memory slope = slopes ? narrowed(wide_slope, layer.out) : nullptr, y = narrowed(sum, layer.out);
  const Memory gate = activation == KeptByActivation::kOutput ? y : slope;
  return tape_.record(y, {x}, trains_, [=, this, x = x.memory, kept = gate](const Memory& dy) {
    std::vector<Memory> sums;
    if (layer.bias.trains) sums = put_sum(layer.bias, rows_);
    const Memory dz = activation != KeptByActivation::kNone ? numbers(layer.out) : dy;
    sums.clear();
    defer(layer.trains, x, scatters ? gathered(dz, layer.out) : dz);
    return std::vector{asks ? all_numbers(in) : nullptr};
  });
}

Tensor SizedOperations::side_by_side(const Tensor& x, int64_t in, const std::vector<SizedLayer>& layers) {
  const bool adapted =
      std::ranges::any_of(layers, [](const SizedLayer& layer) { return layer.adapter != nullptr; });
  const SizedCut cut = layers.front().cut;
  if (!adapted) return plain_side_by_side(x, in, layers, cut, false);
  const bool wide = cut != SizedCut::kNone && narrow();
  const Tensor input = cut == SizedCut::kNone ? x : whole_input(x, in, cut);
  const Tensor beside = adapters_side_by_side(input, in, layers, wide);
  return sum(plain_side_by_side(input, in, layers, SizedCut::kNone, wide), beside);
}

Tensor SizedOperations::plain_side_by_side(const Tensor& x, int64_t in, const std::vector<SizedLayer>& layers,
                                           SizedCut cut, bool wide_gradient) {
  int64_t out = 0;
  bool trains = false;
  SizedVector biases;
  for (const SizedLayer& layer : layers) {
    out += layer.out;
    trains = trains || layer.trains;
    biases.trains = biases.trains || layer.bias.trains;
  }
  biases.elements = out;  // in one sum
  const bool asks = x.needs_gradient(), gathers = cut == SizedCut::kPositionsToColumns;
  const Memory whole = gathers ? gathered(x.memory, in) : x.memory;
  return tape_.record(all_numbers(out), {x}, trains_, [=, this, x = whole](const Memory& dy) {
    if (biases.trains) put_sum(biases, all_rows_);
    defer(trains, x, dy);
    if (!asks) return std::vector<Memory>{};
    Memory dx = all_floats(in);
    if (gathers) dx = scattered_sum(in);
    if (wide_gradient || !narrow()) return std::vector{dx};
    return std::vector{gathers ? numbers(in) : all_numbers(in)};
  });
}

Tensor SizedOperations::biased_activation(const Tensor& x, int64_t columns, KeptByActivation activation,
                                          const SizedVector& bias) {
  if (activation == KeptByActivation::kNone && bias.elements == 0) return x;
  const Memory y = numbers(columns);
  const bool slopes = recorded(x) && activation == KeptByActivation::kSlope;
  const Memory slope = slopes ? numbers(columns) : nullptr;
  const Memory gate = activation == KeptByActivation::kOutput ? y : slope;
  return tape_.record(y, {x}, false, [=, this, kept = gate](const Memory& dy) {
    std::vector<Memory> held;
    if (trains_ && bias.elements > 0) held = put_sum(bias, rows_ * columns / bias.elements);
    return std::vector{activation == KeptByActivation::kNone ? dy : numbers(columns)};
  });
}

Tensor SizedOperations::activated(const Tensor& z, int64_t columns, KeptByActivation activation) {
  if (activation == KeptByActivation::kNone) return z;
  const bool slopes = recorded(z) && activation == KeptByActivation::kSlope;
  const Memory wide = narrow() ? all_floats(columns) : z.memory,
               wide_slope = slopes ? all_floats(columns) : nullptr;
  const Memory y = narrow() ? all_numbers(columns) : wide;
  const Memory slope = slopes && narrow() ? all_numbers(columns) : wide_slope, gate = slopes ? slope : y;
  return tape_.record(y, {z}, false,
                      [this, gate, columns](const Memory&) { return std::vector{all_numbers(columns)}; });
}

Tensor SizedOperations::attention(const Tensor& qkv, int64_t qkv_columns, int64_t heads, int64_t columns) {
  const Memory sums = tape_.make(all_rows_ * part(heads) * kFloatBytes), out = all_numbers(part(columns));
  return tape_.record(out, {qkv}, false, [this, qkv = qkv.memory, out, sums, qkv_columns](const Memory&) {
    return std::vector{all_numbers(part(qkv_columns))};
  });
}

Tensor SizedOperations::swiglu(const Tensor& both, int64_t columns) {
  const int64_t own = part(columns);
  return tape_.record(all_numbers(own), {both}, false, [this, both = both.memory, own](const Memory&) {
    return std::vector{all_numbers(2 * own)};
  });
}

Tensor SizedOperations::add(const Tensor& residual, const Tensor& x, int64_t columns, bool drops) {
  const Memory wide_a = widened(residual.memory, columns), wide_b = widened(x.memory, columns),
               wide = floats(columns);
  return tape_.record(
      narrowed(wide, columns), {residual, x}, false,
      [this, columns, drops](const Memory& dy) { return std::vector{dy, drops ? masked(dy, columns) : dy}; });
}

Tensor SizedOperations::feed_forward(const Tensor& x, const FeedForward& f) {
  const auto adapted = [](const SizedLayer& layer) { return layer.adapter != nullptr; };
  if (!narrow() && degree_ == 1 && !f.drops && !adapted(f.out) && std::ranges::none_of(f.in, adapted))
    return feed_forward_at_once(x, f);
  if (f.in.size() == 2) {
    const Tensor both = side_by_side(norm(x, f.width, f.statistics, f.norm), f.width, f.in);
    return add(x, linear(swiglu(both, f.hidden), f.hidden, f.out), f.width, f.drops);
  }
  const Tensor h =
      linear(norm(x, f.width, f.statistics, f.norm), f.width, f.in.front(), KeptByActivation::kSlope);
  return add(x, linear(h, f.hidden, f.out), f.width, f.drops);
}

Tensor SizedOperations::feed_forward_at_once(const Tensor& x, const FeedForward& f) {
  const bool gated = f.in.size() == 2;
  const int64_t inner = gated ? 2 * f.hidden : f.hidden;
  const Memory statistics = floats(f.statistics), normal = numbers(f.width),
               both = gated ? numbers(inner) : nullptr, h = numbers(f.hidden),
               slope = !gated && recorded(x) ? numbers(f.hidden) : nullptr;
  return tape_.record(numbers(f.width), {x}, trains_,
                      [this, f, inner, x = x.memory, statistics, normal, both, h, slope](const Memory& dy) {
                        const Memory dz = numbers(inner), dx = numbers(f.width);
                        const std::vector<Memory> held = put(f.norm);
                        for (const SizedVector& bias : {f.in.front().bias, f.out.bias}) {
                          if (bias.trains) put(bias);
                        }
                        for (const SizedLayer& layer : f.in) defer(layer.trains, normal, dz);
                        defer(f.out.trains, h, dy);
                        return std::vector{dx};
                      });
}

Tensor SizedOperations::dropout(const Tensor& x, int64_t columns) {
  const Memory from = read(x, columns);
  return tape_.record(masked(from, columns), {x}, false,
                      [this, columns](const Memory& dy) { return std::vector{masked(dy, columns)}; });
}

Tensor SizedOperations::flattened(const Tensor& x, int64_t columns) {
  return tape_.record(all_numbers(columns), {x}, false, [](const Memory& dy) { return std::vector{dy}; });
}

// The vectors of the own rows, zeros in place of the others, are added up in the unit's numbers.
Tensor SizedOperations::cut_tables(int64_t columns, const SizedLayer& tokens, const SizedLayer* positions) {
  Tensor beside;
  if (tokens.adapter != nullptr) beside = looked_up(tokens, columns, /*cut=*/true);
  Memory found = all_numbers(columns), slices = all_numbers(columns);
  const Memory y = numbers(columns);
  slices.reset();
  if (positions != nullptr) numbers(columns);
  found.reset();
  const bool trains = tokens.trains || (positions != nullptr && positions->trains);
  const Tensor sum_of_parts = tape_.record(y, {beside}, trains_, [this, columns, trains](const Memory& dy) {
    const Memory all = gathered(dy, columns);
    defer(trains, all, nullptr);
    return std::vector{all};
  });
  if (positions == nullptr || positions->adapter == nullptr) return sum_of_parts;
  return sum(sum_of_parts, looked_up(*positions, columns, /*cut=*/false));
}

Tensor SizedOperations::plain_convolution(const Tensor& x, const SizedConvolution& c) {
  const Memory from = read(x, c.in), y = floats(c.out), wide = widened(from, c.in),
               weight = float_copy(c.weight);
  const bool asks = x.needs_gradient();
  const Memory kept = recorded(x) && c.codes > 0 ? tape_.make(c.codes) : nullptr;
  if (c.trains && narrow()) weight_peak_ = std::max(weight_peak_, rows_ * (c.in + c.out) * kFloatBytes);
  return tape_.record(narrowed(y, c.out), {x}, trains_, [this, c, asks, from, kept](const Memory& dy) {
    defer(c.trains, from, dy);
    defer(c.trains, kept, nullptr);
    if (!asks) return std::vector<Memory>{};
    const Memory wide_dy = widened(dy, c.out), weight = float_copy(c.weight), dx = floats(c.in);
    return std::vector{narrowed(dx, c.in)};
  });
}

Tensor SizedOperations::pooled(const Tensor& x, int64_t in, int64_t out) {
  const Memory y = numbers(out), places = tape_.make(rows_ * out * kPlaceBytes);
  return tape_.record(y, {x}, false,
                      [this, x = x.memory, places, in](const Memory&) { return std::vector{numbers(in)}; });
}

Tensor SizedOperations::image_convolution(const Tensor& x, int64_t in, int64_t out, bool trains,
                                          bool copies) {
  const bool asks = x.needs_gradient();
  const Memory read = copies ? numbers(in) : x.memory;
  return tape_.record(numbers(out), {x}, trains_, [=, this](const Memory& dy) {
    defer(trains, read, dy);
    return std::vector{asks ? numbers(in) : nullptr};
  });
}

Tensor SizedOperations::batch_norm(const Tensor& x, int64_t columns, const SizedNorm& parameters, bool relu,
                                   const Tensor& residual) {
  const int64_t channels = parameters.weight.elements;
  const Memory from = read(x, columns), moments = tape_.make(0, 2 * channels * kFloatBytes),
               weight = float_copy(channels), past = residual.memory ? read(residual, columns) : nullptr;
  const Memory y = numbers(columns);
  const bool both = residual.needs_gradient();
  // A ReLU without a residual in it asks x again, and the bias.
  const Memory bias = relu && !residual.memory ? float_copy(channels) : nullptr;
  const Memory kept = relu && residual.memory ? y : nullptr;
  const auto held = std::tuple(from, moments, weight, bias, kept);
  return tape_.record(y, {x, residual}, trains_, [this, held, both, columns, parameters](const Memory&) {
    const std::vector<Memory> vectors = put(parameters);
    std::vector<Memory> gradients{numbers(columns), nullptr};
    if (both) gradients[1] = numbers(columns);
    return gradients;
  });
}

Tensor SizedOperations::resampled(const Tensor& x, int64_t in, int64_t out) {
  const Memory from = read(x, in);
  return tape_.record(numbers(out), {x}, false,
                      [this, in](const Memory&) { return std::vector{numbers(in)}; });
}

Tensor SizedOperations::max_pooled(const Tensor& x, int64_t in, int64_t out) {
  const Memory from = read(x, in), y = numbers(out), places = tape_.make(rows_ * out);
  return tape_.record(y, {x}, false, [this, places, in](const Memory&) { return std::vector{numbers(in)}; });
}

}  // namespace furrow::models
