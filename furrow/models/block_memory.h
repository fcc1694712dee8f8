// What blocks need while they run, from a MemoryTape.
#pragma once

#include "furrow/models/image_borders.h"
#include "furrow/plan/model_spec.h"

namespace furrow::models {

inline constexpr int64_t kManySamples = int64_t{1} << 20;  // so that what is fixed hardly counts

// Sets what calls of units hold, by the run of their blocks, whose kinds are known here: all but tables, and
// those too over a tensor axis.  Of other kinds what is described stays.
// REQUIRES: a spec that nothing changes any more, of a whole network: precision, adapters and what is frozen
// count.  `samples`: of a microbatch, where they are known; peaks are those of so many.
void declare_scratch(plan::ModelSpec* spec, int64_t samples = kManySamples);

// What a sample of a unit holds, by the tape; of a part of one (plan/tensor_cut.h), one rank of its axis.  Of
// a unit of another kind: all 0.  `samples`: of the microbatch whose most is asked for.
struct CallMemory {
  int64_t saved_bytes = 0, deferred_bytes = 0, kept_saved_bytes = 0, kept_grad_bytes = 0;  // as Unit's
  int64_t forward_peak = 0, backward_peak = 0;    // above what the call finds when it begins
  int64_t forward_fixed = 0, backward_fixed = 0;  // beside them, of any microbatch
  int64_t weight_peak = 0;                        // of gradients of weights
};
CallMemory call_memory(const plan::Unit& unit, bool input_gradient, const ImageBorders& borders = {},
                       int64_t samples = kManySamples);

}  // namespace furrow::models
