// ModelSpec + Layout + options -> Program.  Pure functions; about 20 ms for a hundred units and 32
// microbatches, half of it verify (plan_bench).
//
// The spec is that of one rank of the layout's tensor axis (plan/tensor_cut.h), here and in all that reads
// programs; a layout without one has the whole.
#pragma once

#include <cstdint>
#include <vector>

#include "furrow/plan/gradient_tree.h"
#include "furrow/plan/layout.h"
#include "furrow/plan/model_spec.h"
#include "furrow/plan/pipeline.h"
#include "furrow/plan/placement.h"
#include "furrow/plan/program.h"

namespace furrow::config {
struct Debug;
struct Parallelism;
}  // namespace furrow::config

namespace furrow::plan {

inline constexpr int64_t kMostMicrobatchSamples = int64_t{1} << 18;

// When a rank frees the gathered parameters of a unit (ZeRO-3).
enum class Reshard : uint8_t {
  kDefault,  // after its forward, and after its backward; the last unit's serve both
  kAlways,   // after its forward, and after its backward
  kNever,    // after the last use in the step: one gather a step, as much memory as ZeRO-1's parameters
};

enum class Deterministic : uint8_t { kOff, kAuto, kStrict };

// How the ranks of a layout share a program.  Layout, not recipe: under kStrict, and under kAuto where the
// tree is canonical, no value of it changes a bit of a result.
struct RankOptions {
  int rank = 0;
  int zero_stage = 3;  // 1, 2 or 3; counts only where dp_shard is above 1
  Reshard reshard = Reshard::kDefault;
  // kStrict: the canonical tree, though more than one node a rank may travel.  kAuto: the canonical tree
  // where that costs no byte (is_aligned), else the tree by ranks.  kOff: by ranks.
  Deterministic deterministic = Deterministic::kAuto;
  int prefetch_units = 1;  // how many units may be gathered ahead of the one at work
  PipelineOptions pipeline = {};
  int64_t bucket_bytes = 0;  // of gradients: units that have no more together share collectives (buckets.h)
};

// From [parallelism] and [debug].  Without buckets where bucket_cap_mb leaves their size to be chosen.
RankOptions rank_options_from(const config::Parallelism& parallelism, const config::Debug& debug, int rank);

// The stages that [parallelism] names by their layers or modules, as counts of units and stages of a rank.
// Nothing where it names none, or has no pipeline.  Error{invalid_argument}: see stages.h; a number of stages
// that is no multiple of the ranks, or another one than pipeline_parallel_stages_per_rank says.
void name_stages(const config::Parallelism& parallelism, const ModelSpec& spec, PipelineOptions* options);

struct TrainOptions {
  std::vector<int64_t> microbatch_sizes;  // one entry per microbatch of the global batch
  std::vector<bool> recompute;            // per unit; empty: none
  StateForms optimizer_states = {};       // plan/optimizer_spec.h; a number: as many float32 ones
  RankOptions ranks = {};
};

// Where the program of k microbatches runs, ZeRO stage, tree and stages of the pipeline resolved.
// Error{invalid_argument}: no such rank or stage.
Placement placement_for(const ModelSpec& spec, const Layout& layout, const RankOptions& options, int32_t k);

// A training step, as one rank runs it: the actions of its schedule (load, forward, loss, backward);
// gradients added along the tree as early as possible (log2(k) + 1 buffers) and reduced over the ranks as
// soon as they are complete; tied uses added in use order; measure; clip; step.  The result is verified, and
// has its buffers. Error{invalid_argument}: fewer microbatches than data ranks.  Error{unimplemented}: an
// axis that plan does not compile yet (compatibility.h).
Program compile_train(const ModelSpec& spec, const Layout& layout, const TrainOptions& options);

// Forward only, with exact metric sums: load, forward, evaluate, measure.  Ranks may be without a microbatch.
Program compile_evaluate(const ModelSpec& spec, const Layout& layout,
                         const std::vector<int64_t>& microbatch_sizes, const RankOptions& ranks = {});

// Forward only, on one rank, with outputs: load, forward.  batch(m) and act(u,m) of every microbatch live at
// the end, of the unit u that prediction_of() (topology.h) names; what that does not need does not run.
Program compile_predict(const ModelSpec& spec, const std::vector<int64_t>& microbatch_sizes);

// The weights and their average ([ema]) change places, on every rank that holds them: what runs before and
// after an evaluation with the average.  REQUIRES: the last state is plan::kAverageState.
Program compile_average(const ModelSpec& spec, const Layout& layout, const TrainOptions& options);

// Copies this rank's part of parameters and optimizer state for a checkpoint.
Program compile_save(const ModelSpec& spec, const Layout& layout, const TrainOptions& options);

}  // namespace furrow::plan
