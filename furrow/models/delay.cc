// y = gain * x, after sleeping: a unit that costs given times, so that a schedule on many ranks can be
// executed on few cores.  Parameter gain [1].  Times are of a microbatch, whatever its size.
#include <fmt/format.h>

#include <cmath>

#include "furrow/models/specs.h"
#include "furrow/models/unit_builder.h"

namespace furrow::models {
namespace {

// For the split into stages, which goes by FLOPs: any factor will do.
constexpr double kFlopsPerMs = 1e6;

double milliseconds(const plan::Unit& unit, const std::string& key) {
  const double ms = plan::attribute<double>(unit, key);
  if (!std::isfinite(ms) || ms < 0 || ms > 1e6)
    unit_error(unit, fmt::format("{} is {}: it must be 0 to 1e6", key, ms));
  return ms;
}

}  // namespace

void describe_delay(plan::Unit& unit) {
  const double forward = milliseconds(unit, "forward_ms");
  const double backward_input = milliseconds(unit, "backward_input_ms");
  const double backward_weight = milliseconds(unit, "backward_weight_ms");
  if (unit.input.dtype != DType::kF32 || unit.input.shape.size() < 2)
    require_input(unit, DType::kF32, 2, "[-1, features]");
  add_parameter(unit, "gain", {1}, ones());
  unit.output = unit.input;
  unit.flops = {forward * kFlopsPerMs, backward_input * kFlopsPerMs, backward_weight * kFlopsPerMs};
  unit.deferred_bytes = unit.input.bytes_per_sample();
}

}  // namespace furrow::models
