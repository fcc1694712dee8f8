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

  add_parameter(unit, "weight", {out, in}, uniform_fan_in(in));
  if (flag(unit, "bias")) add_parameter(unit, "bias", {out}, uniform_fan_in(in));
  unit.output = {DType::kF32, output};
  const double flops = 2.0 * static_cast<double>(rows) * static_cast<double>(in) * static_cast<double>(out);
  unit.flops = {flops, flops, flops};
  // gelu keeps its slope; the gradient of the others needs the output alone.
  unit.saved_bytes = act == "gelu" ? rows * out * number_bytes(unit) : 0;
  unit.deferred_bytes = rows * out * number_bytes(unit);
  if (act == "none") unit.kept_grad_bytes = unit.deferred_bytes;
}

}  // namespace furrow::models
