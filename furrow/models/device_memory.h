// What a device other than the CPU takes for a step beside what block_memory.h says.  Internal to models.
#pragma once

#include "furrow/config/config.h"
#include "furrow/plan/model_spec.h"

namespace furrow::models {

// Scratch of what is done by compositions (tensor/composed/, tensor/loss.cc): a table's gradient is made
// beside its place, and cross-entropy over many classes some rows at a time, of microbatches as configured.
// REQUIRES: declare_scratch().
void declare_compositions(const config::Config& config, plan::ModelSpec* spec);

}  // namespace furrow::models
