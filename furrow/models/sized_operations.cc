#include "furrow/models/sized_operations.h"

#include <algorithm>
#include <utility>

namespace furrow::models {
namespace {

using Memory = SizedOperations::Memory;
using Tensor = SizedOperations::Tensor;

constexpr int64_t kPlaceBytes = 8;

bool is_trained(const plan::Parameter& parameter) { return !parameter.rule.frozen && !parameter.borrowed; }

bool any_trains(const plan::Unit& unit) { return std::ranges::any_of(unit.parameters, is_trained); }

}  // namespace

SizedOperations::SizedOperations(const plan::Unit& unit, int64_t rows, bool shares_positions)
    : unit_(unit),
      rows_(rows),
      degree_(unit.tensor_degree),
      all_rows_(shares_positions ? rows * degree_ : rows),
      bytes_(number_bytes(unit)),
      trains_(any_trains(unit)) {}

SizedLayer SizedOperations::layer(std::string_view name, int64_t out, SizedCut cut) const {
  SizedLayer layer;
  layer.cut = degree_ > 1 ? cut : SizedCut::kNone;
  layer.out = layer.cuts_outputs() ? part(out) : out;
  for (size_t i = 0; i < unit_.parameters.size(); ++i) {
    if (!unit_.parameters[i].name.ends_with(name)) continue;
    layer.trains = is_trained(unit_.parameters[i]);
    for (const plan::Adapter& adapter : unit_.adapters) {
      if (adapter.weight != static_cast<int>(i)) continue;
      const plan::Parameter &a = unit_.parameters[static_cast<size_t>(adapter.a)],
                            &b = unit_.parameters[static_cast<size_t>(adapter.b)];
      layer.adapter = &adapter;
      layer.rank = a.shape[0];
      layer.adapter_trains = is_trained(a) || is_trained(b);
    }
    break;
  }
  return layer;
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

Tensor SizedOperations::norm(const Tensor& x, int64_t columns, int64_t statistics) {
  const Memory kept = floats(statistics), wide = widened(x.memory, columns), y = floats(columns);
  const Memory out = narrowed(y, columns);
  return tape_.record(out, {x}, trains_, [this, x = x.memory, kept, columns](const Memory& dy) {
    const Memory wide_dy = widened(dy, columns), wide_x = widened(x, columns), dx = floats(columns);
    return std::vector{narrowed(dx, columns)};
  });
}

Tensor SizedOperations::linear(const Tensor& x, int64_t in, const SizedLayer& layer,
                               KeptByActivation activation) {
  if (layer.adapter != nullptr) return linear_with_adapter(x, in, layer, activation);
  if (layer.cuts_inputs()) return summed(x, part(in), layer, activation);
  return plain(x, {in, layer.out, layer.trains, activation, layer.cut});
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
    const Memory dz = p.activation != KeptByActivation::kNone ? all_numbers(p.out) : dy;
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
    const Memory dz = activation != KeptByActivation::kNone ? numbers(layer.out) : dy;
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
  for (const SizedLayer& layer : layers) {
    out += layer.out;
    trains = trains || layer.trains;
  }
  const bool asks = x.needs_gradient(), gathers = cut == SizedCut::kPositionsToColumns;
  const Memory whole = gathers ? gathered(x.memory, in) : x.memory;
  return tape_.record(all_numbers(out), {x}, trains_, [=, this, x = whole](const Memory& dy) {
    defer(trains, x, dy);
    if (!asks) return std::vector<Memory>{};
    Memory dx = all_floats(in);
    if (gathers) dx = scattered_sum(in);
    if (wide_gradient || !narrow()) return std::vector{dx};
    return std::vector{gathers ? numbers(in) : all_numbers(in)};
  });
}

Tensor SizedOperations::separate(const Tensor& x, int64_t columns, KeptByActivation kept) {
  const Memory y = all_numbers(columns);
  const bool slopes = recorded(x) && kept == KeptByActivation::kSlope;
  const Memory gate = slopes ? all_numbers(columns) : y;
  return tape_.record(y, {x}, false,
                      [this, gate, columns](const Memory&) { return std::vector{all_numbers(columns)}; });
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
    const Tensor both = side_by_side(norm(x, f.width, f.statistics), f.width, f.in);
    return add(x, linear(swiglu(both, f.hidden), f.hidden, f.out), f.width, f.drops);
  }
  const Tensor h = linear(norm(x, f.width, f.statistics), f.width, f.in.front(), KeptByActivation::kSlope);
  return add(x, linear(h, f.hidden, f.out), f.width, f.drops);
}

Tensor SizedOperations::feed_forward_at_once(const Tensor& x, const FeedForward& f) {
  const bool gated = f.in.size() == 2;
  const int64_t inner = gated ? 2 * f.hidden : f.hidden;
  bool in_trains = false;
  for (const SizedLayer& layer : f.in) in_trains = in_trains || layer.trains;
  const Memory statistics = floats(f.statistics), normal = numbers(f.width),
               both = gated ? numbers(inner) : nullptr, h = numbers(f.hidden),
               slope = !gated && recorded(x) ? numbers(f.hidden) : nullptr;
  return tape_.record(numbers(f.width), {x}, trains_,
                      [this, width = f.width, inner, in_trains, out_trains = f.out.trains, x = x.memory,
                       statistics, normal, both, h, slope](const Memory& dy) {
                        const Memory dz = numbers(inner);
                        defer(in_trains, normal, dz);
                        defer(out_trains, h, dy);
                        return std::vector{numbers(width)};
                      });
}

Tensor SizedOperations::dropout(const Tensor& x, int64_t columns) {
  return tape_.record(masked(x.memory, columns), {x}, false,
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

Tensor SizedOperations::plain_convolution(const Tensor& x, int64_t in, int64_t out, bool trains,
                                          int64_t codes) {
  const Memory wide = widened(x.memory, in), y = floats(out);
  const bool asks = x.needs_gradient();
  const Memory kept = recorded(x) && codes > 0 ? tape_.make(codes) : nullptr;
  if (trains && narrow()) weight_peak_ = std::max(weight_peak_, rows_ * (in + out) * kFloatBytes);
  return tape_.record(narrowed(y, out), {x}, trains_, [=, this, x = x.memory](const Memory& dy) {
    defer(trains, x, dy);
    defer(trains, kept, nullptr);
    if (!asks) return std::vector<Memory>{};
    const Memory wide_dy = widened(dy, out), dx = floats(in);
    return std::vector{narrowed(dx, in)};
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

Tensor SizedOperations::batch_norm(const Tensor& x, int64_t columns, bool relu, const Tensor& residual) {
  const Memory y = numbers(columns);
  const bool both = residual.needs_gradient();
  // A ReLU without a residual in it asks x again.
  const auto kept = std::pair(x.memory, relu && residual.memory ? y : nullptr);
  return tape_.record(y, {x, residual}, trains_, [this, kept, both, columns](const Memory&) {
    std::vector<Memory> gradients{numbers(columns), nullptr};
    if (both) gradients[1] = numbers(columns);
    return gradients;
  });
}

Tensor SizedOperations::subsampled(const Tensor& x, int64_t in, int64_t out) {
  return tape_.record(numbers(out), {x}, false,
                      [this, in](const Memory&) { return std::vector{numbers(in)}; });
}

Tensor SizedOperations::max_pooled(const Tensor& x, int64_t in, int64_t out) {
  const Memory y = numbers(out), places = tape_.make(rows_ * out);
  return tape_.record(y, {x}, false, [this, places, in](const Memory&) { return std::vector{numbers(in)}; });
}

}  // namespace furrow::models
