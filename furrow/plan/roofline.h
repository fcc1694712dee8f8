// What a unit computes and moves: the two axes of the roofline, and the coordinates in which measured units
// of other sizes are near.
#pragma once

#include "furrow/plan/cost.h"

namespace furrow::plan {

struct Roofline {
  double flops = 0;
  double bytes = 0;  // inputs, outputs, saved activations, parameters: each once
};

Roofline roofline_of(const UnitWork& work);

// Of a device in a type; of float32 where it has no other.
double peak_flops(const DeviceSpec& device, DType type);

}  // namespace furrow::plan
