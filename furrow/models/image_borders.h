// Where a unit gets an image, or its gradient, otherwise than its block reads it.  Internal to models.
#pragma once

#include <cstddef>

#include "furrow/plan/model_spec.h"
#include "furrow/plan/unit_facts.h"

namespace furrow::models {

// Blocks read pixels with their channels side by side, or planes, one of each channel.  A batch has planes.
// What comes in the other form they copy; images of one channel or of one pixel are both.
struct BorderCopies {
  bool input = false;     // of a first layer, or where a linear layer flattens pixels
  bool gradient = false;  // of pixels, behind which planes are flattened
};
BorderCopies border_copies(const plan::ModelSpec& spec, const plan::ModelFacts& facts, size_t unit);

// What they add to a unit that has no row in block_memory.cc.  `asks`: its source asks for a gradient.
void copy_input(plan::Unit* unit);
void copy_gradient(bool asks, plan::Unit* unit);

}  // namespace furrow::models
