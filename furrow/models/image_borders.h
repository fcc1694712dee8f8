// Where a unit gets an image, or its gradient, otherwise than its block reads it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "furrow/plan/model_spec.h"
#include "furrow/plan/unit_facts.h"

namespace furrow::models {

// Planes, one of each channel, or pixels with their channels side by side.  Images of one channel or of one
// pixel are both.
enum class ImageForm : uint8_t { kPlanes, kPixels };

// What comes in the other form than the block reads is copied.
struct ImageBorders {
  ImageForm comes = ImageForm::kPlanes, reads = ImageForm::kPlanes;  // its input
  ImageForm gives = ImageForm::kPlanes;  // its output, and so the gradient it reads
  ImageForm gradient_comes = ImageForm::kPlanes;
  bool copies_input() const { return comes != reads; }
  bool copies_gradient() const { return gradient_comes != gives; }
};
ImageBorders image_borders(const plan::ModelSpec& spec, const plan::ModelFacts& facts, size_t unit);

}  // namespace furrow::models
