// What blocks need while they run, from a MemoryTape.
#pragma once

#include "furrow/plan/model_spec.h"

namespace furrow::models {

// Sets what calls of units hold, by the run of their blocks, whose kinds are known here: gpt's and llama's
// blocks and heads, linear layers, convolutions with what stands behind them, residual blocks; and what a
// rank of any tensor axis holds of these and of embeddings.  Of other kinds what is described stays.
// REQUIRES: a spec that nothing changes any more, of a whole network: precision, adapters and what is frozen
// count.
void declare_scratch(plan::ModelSpec* spec);

// What a sample of a unit holds, by the tape; of a part of one (plan/tensor_cut.h), one rank of its axis.  Of
// a unit of another kind: all 0.  `copies_input`: BorderCopies::input.
struct CallMemory {
  int64_t saved_bytes = 0, deferred_bytes = 0, kept_saved_bytes = 0, kept_grad_bytes = 0;  // as Unit's
  int64_t forward_peak = 0, backward_peak = 0;  // above what the call finds when it begins
  int64_t weight_peak = 0;                      // of gradients of weights
};
CallMemory call_memory(const plan::Unit& unit, bool input_gradient, bool copies_input = false);

}  // namespace furrow::models
