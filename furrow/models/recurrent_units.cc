// Recurrent layers over a sequence, state zero before it.  "Concatenation" is [x_t, h_{t-1}], as in PyTorch's
// tutorials; initial values are PyTorch's default for linear layers.
#include <fmt/format.h>

#include "furrow/models/specs.h"
#include "furrow/models/unit_builder.h"

namespace furrow::models {
namespace {

// Reads [-1, time, in] and returns the time.
int64_t time_of(const plan::Unit& unit, int64_t in) {
  require_input(unit, DType::kF32, 3, "[-1, time, in]");
  if (unit.input.shape[2] == in) return unit.input.shape[1];
  unit_error(unit, fmt::format("in is {}, but the input is {}", in, to_string(unit.input.shape)));
}

void add_layer(plan::Unit& unit, const std::string& name, int64_t out, int64_t in) {
  add_parameter(unit, name + ".weight", {out, in}, uniform_fan_in(in));
  add_parameter(unit, name + ".bias", {out}, uniform_fan_in(in));
}

plan::Flops products(int64_t time, int64_t in, int64_t out) {
  const double flops = 2.0 * static_cast<double>(time) * static_cast<double>(in) * static_cast<double>(out);
  return {flops, flops, flops};
}

}  // namespace

// h_t = tanh(i2h(concatenation)), output i2o(concatenation): [-1, time, out].
void describe_rnn(plan::Unit& unit) {
  const int64_t in = size_of(unit, "in"), hidden = size_of(unit, "hidden"), out = size_of(unit, "out");
  const int64_t time = time_of(unit, in), both = in + hidden;
  add_layer(unit, "i2h", hidden, both);
  add_layer(unit, "i2o", out, both);
  unit.output = {DType::kF32, {-1, time, out}};
  unit.flops = products(time, both, hidden + out);
  const int64_t bytes = number_bytes(unit);
  // The concatenation and h, which become the concatenation and the gradient of i2h's output.
  unit.saved_bytes = unit.kept_saved_bytes = time * (both + hidden) * bytes;
  unit.deferred_bytes = unit.kept_saved_bytes + time * out * bytes;
  // Behind a mask the gradient is another than came.
  const bool drops = unit.attributes.contains("dropout") && probability(unit, "dropout") > 0;
  unit.kept_grad_bytes = drops ? 0 : time * out * bytes;
}

// The four gates are i2h(concatenation), i, f, g, o in PyTorch's order; output h: [-1, time, hidden].
void describe_lstm(plan::Unit& unit) {
  const int64_t in = size_of(unit, "in"), hidden = size_of(unit, "hidden");
  const int64_t time = time_of(unit, in), both = in + hidden;
  add_layer(unit, "i2h", 4 * hidden, both);
  unit.output = {DType::kF32, {-1, time, hidden}};
  unit.flops = products(time, both, 4 * hidden);
  const int64_t bytes = number_bytes(unit);
  // The concatenation, the gates and the cell, of which the concatenation and the gates' gradient stay.
  unit.saved_bytes = time * (both + 5 * hidden) * bytes;
  unit.deferred_bytes = unit.kept_saved_bytes = time * (both + 4 * hidden) * bytes;
  if (unit.attributes.contains("dropout")) probability(unit, "dropout");
}

}  // namespace furrow::models
