// y = gain * x, after sleeping: a unit that costs given times, so that a schedule on many ranks can be
// executed on few cores.  Parameter gain [1].  Times are of a microbatch, whatever its size; `bytes` is what
// a sample of y has, which a stage sends: x over and over, as far as it goes.
#include <fmt/format.h>

#include <cmath>

#include "furrow/models/specs.h"
#include "furrow/models/unit_builder.h"

namespace furrow::models {
namespace {

// For the split into stages, which goes by FLOPs: any factor will do.  What it takes is stated_seconds
// (plan/roofline.h).
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
  const int64_t bytes = unit.attributes.contains("bytes") ? count_of(unit, "bytes") : 0;
  if (bytes % kFloatBytes != 0)
    unit_error(unit, fmt::format("bytes is {}: of float32, it must be a multiple of {}", bytes, kFloatBytes));
  if (bytes > 0) unit.output.shape = {-1, bytes / kFloatBytes};
  unit.flops = {forward * kFlopsPerMs, backward_input * kFlopsPerMs, backward_weight * kFlopsPerMs};
  unit.deferred_bytes = unit.output.bytes_per_sample();
}

}  // namespace furrow::models
