// y = activation(x W^T + b).  With `flatten` the input's dims behind the microbatch become one; without, the
// last dim is multiplied and the others stay.  Parameters weight [out, in] and, with `bias`, bias [out].
#include <fmt/format.h>

#include "furrow/models/specs.h"
#include "furrow/models/unit_builder.h"

namespace furrow::models {
namespace {

int64_t elements_of(const Shape& shape, size_t from) {
  int64_t elements = 1;
  for (size_t i = from; i < shape.size(); ++i) elements *= shape[i];
  return elements;
}

// Over a tensor axis a layer whose input is whole has its outputs cut, and one that reads such an output its
// inputs, with the sum whole on every rank: in pairs (Shoeybi et al., "Megatron-LM", 2019).  The first of a
// pair sums the input's gradient, the second its output.  A last layer whose logits are cut exchanges what
// cross-entropy needs of its rows.
void cut(plan::Unit& unit, bool rows_cut, int64_t rows) {
  using enum plan::UnitCollective::Phase;
  using enum plan::UnitCollective::Op;
  const int64_t in = size_of(unit, "in"), out = size_of(unit, "out");
  unit.tensor.possible = true;
  if (rows_cut) {
    unit.tensor.whole_saved_bytes = unit.saved_bytes;
    unit.tensor.whole_deferred_bytes = unit.deferred_bytes;
    add_collective(unit, kForward, kAllReduce, rows * out * kFloatBytes);
    return;
  }
  unit.output.tensor_axis = static_cast<int>(unit.output.shape.size()) - 1;
  add_collective(unit, kBackwardInput, kAllReduce, rows * in * kFloatBytes);
  unit.collectives.back().with_input_gradient = true;
  add_cross_entropy(unit, rows);
}

}  // namespace

void describe_linear(plan::Unit& unit) {
  const int64_t in = size_of(unit, "in");
  const int64_t out = size_of(unit, "out");
  const std::string act = activation(unit);
  const bool flatten = flag(unit, "flatten");
  const Shape& input = unit.input.shape;
  if (unit.input.dtype != DType::kF32 || input.size() < 2)
    require_input(unit, DType::kF32, 2, "[-1, features]");
  const int64_t features = flatten ? elements_of(input, 1) : input.back();
  if (features != in) {
    unit_error(unit,
               fmt::format("in is {}, but the input {} has {} features", in, to_string(input), features));
  }
  Shape output = flatten ? Shape{-1} : Shape(input.begin(), input.end() - 1);
  output.push_back(out);
  const int64_t rows = elements_of(output, 1) / out;

  const int last = static_cast<int>(input.size()) - 1;
  const bool rows_cut = unit.input.tensor_axis == last && (last == 1 || !flatten);
  if (!rows_cut) unit.input.tensor_axis = -1;
  add_cut_parameter(unit, "weight", {out, in}, uniform_fan_in(in), rows_cut ? 1 : 0);
  if (flag(unit, "bias")) add_cut_parameter(unit, "bias", {out}, uniform_fan_in(in), rows_cut ? -1 : 0);
  unit.output = {DType::kF32, output};
  const double flops = 2.0 * static_cast<double>(rows) * static_cast<double>(in) * static_cast<double>(out);
  unit.flops = {flops, flops, flops};
  unit.saved_bytes = keeps_slope(act) ? rows * out * number_bytes(unit) : 0;
  unit.deferred_bytes = rows * out * number_bytes(unit);
  if (act == "none") unit.kept_grad_bytes = unit.deferred_bytes;
  cut(unit, rows_cut, rows);
}

}  // namespace furrow::models
