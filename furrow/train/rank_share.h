// Which samples a rank reads.  Torch-free.
#pragma once

#include <cstdint>

#include "furrow/data/loader.h"
#include "furrow/plan/program.h"

namespace furrow::train {

// The microbatches of the program's rank in every step from global position `position` on; no sizes where it
// has none.
data::LoaderOptions loader_options(const plan::Program& program, int64_t position);

int64_t samples_of(const plan::Program& program);  // of the microbatches of its rank

}  // namespace furrow::train
