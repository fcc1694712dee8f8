// Noise in place of a sample: [-1, width], uniform in [-1, 1) (as in Radford et al., "Unsupervised
// representation learning with deep convolutional generative adversarial networks", 2015), a function of
// seed, step and sample id.  It reads the batch for its sample ids alone.  No parameters.
#include "furrow/models/specs.h"
#include "furrow/models/unit_builder.h"

namespace furrow::models {

void describe_latent(plan::Unit& unit) { unit.output = {DType::kF32, {-1, size_of(unit, "width")}}; }

}  // namespace furrow::models
