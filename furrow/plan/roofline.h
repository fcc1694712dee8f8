// What a unit computes and moves: the two axes of the roofline, and the coordinates in which measured units
// of other sizes are near.
#pragma once

#include <optional>

#include "furrow/plan/cost.h"

namespace furrow::plan {

struct Roofline {
  double flops = 0;
  double bytes = 0;  // inputs, outputs, saved activations, parameters: each once
};

Roofline roofline_of(const UnitWork& work);

// What the unit itself says that it takes, of a microbatch of any size on any machine: a "delay" sleeps
// (models/kinds.h).  None: its work is its cost.
std::optional<double> stated_seconds(const UnitWork& work);

// Of a device in a type; of float32 where it has no other.
double peak_flops(const DeviceSpec& device, DType type);

}  // namespace furrow::plan
