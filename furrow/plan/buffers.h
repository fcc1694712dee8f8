// The buffer pass: gives every value a slot, reuses slots whose value is dead, and says after which instruction a value
// is dropped.  A slot never holds two live values; verify() checks that.
#pragma once

#include "furrow/plan/flat_layout.h"
#include "furrow/plan/model_spec.h"
#include "furrow/plan/program.h"

namespace furrow::plan {

void assign_buffers(const ModelSpec& spec, const FlatLayout& flat, int optimizer_state_copies, Program* program);

}  // namespace furrow::plan
