// ModelSpec + Layout + options -> Program.  Pure functions; about 20 ms for a hundred units and 32
// microbatches, half of it verify (plan_bench).
#pragma once

#include <cstdint>
#include <vector>

#include "furrow/plan/layout.h"
#include "furrow/plan/model_spec.h"
#include "furrow/plan/program.h"

namespace furrow::plan {

inline constexpr int64_t kMostMicrobatchSamples = int64_t{1} << 18;

struct TrainOptions {
  std::vector<int64_t> microbatch_sizes;  // one entry per microbatch of the global batch
  std::vector<bool> recompute;            // per unit; empty: none
  int optimizer_state_copies = 0;         // flat buffers of state per unit (AdamW 2, SGD with momentum 1)
};

// A training step: for each microbatch load, forward, loss, backward; gradients added along the canonical
// binary tree over microbatches as early as possible (log2(k) + 1 buffers); tied uses added in use order;
// clip; step. The result is verified, and has its buffers.
Program compile_train(const ModelSpec& spec, const Layout& layout, const TrainOptions& options);

// Forward only, with exact metric sums: load, forward, evaluate.
Program compile_evaluate(const ModelSpec& spec, const Layout& layout,
                         const std::vector<int64_t>& microbatch_sizes);

// Copies parameters and optimizer state for a checkpoint.
Program compile_save(const ModelSpec& spec, const Layout& layout, const TrainOptions& options);

// The canonical tree over [begin, end): where a node is split (at the largest power of two below its size).
int32_t tree_split(int32_t begin, int32_t end);

}  // namespace furrow::plan
