#include "furrow/plan/compile.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/plan/batch_check.h"
#include "furrow/plan/buckets.h"
#include "furrow/plan/buffers.h"
#include "furrow/plan/compatibility.h"
#include "furrow/plan/draft.h"
#include "furrow/plan/tensor_cut.h"
#include "furrow/plan/verify.h"

namespace furrow::plan {
namespace {

constexpr size_t kMostMicrobatches = 1 << 20;

void check_sizes(const std::vector<int64_t>& sizes) {
  if (sizes.empty() || sizes.size() > kMostMicrobatches) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("a program has 1 to {} microbatches, not {}", kMostMicrobatches, sizes.size()));
  }
  for (size_t m = 0; m < sizes.size(); ++m) {
    if (sizes[m] < 1 || sizes[m] > kMostMicrobatchSamples) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("microbatch {} has {} samples: it must have 1 to {}", m, sizes[m],
                              kMostMicrobatchSamples));
    }
  }
}

int32_t count(const std::vector<int64_t>& sizes) { return static_cast<int32_t>(sizes.size()); }

void check_training(const ModelSpec& spec, const Placement& placement, const TrainOptions& options) {
  if (!options.recompute.empty() && options.recompute.size() != spec.units.size()) {
    throw Error(ErrorCode::kInvalidArgument, fmt::format("recompute has {} entries for {} units",
                                                         options.recompute.size(), spec.units.size()));
  }
  check_microbatches(options.microbatch_sizes, placement.layout);
}

// All ranks meet in the sums, which `clip` waits for.
int32_t meeting(const Program& program) {
  const auto clip = std::find_if(program.instructions.begin(), program.instructions.end(),
                                 [](const Instruction& i) { return i.op == Op::kClip; });
  return static_cast<int32_t>(std::min(clip, program.instructions.end() - 1) - program.instructions.begin());
}

Program finish(Draft* draft) {
  Program& program = draft->program;
  std::vector<Hold> holds;
  for (DraftInstruction& each : draft->list) {
    if (each.ghost) continue;
    for (const Value& value : each.releases)
      holds.push_back({value, static_cast<int32_t>(program.instructions.size())});
    program.instructions.push_back(std::move(each.instruction));
  }
  for (const Value& value : draft->unacknowledged) holds.push_back({value, meeting(program)});
  assign_buffers({draft->spec, draft->facts.flat, holds}, &program);
  verify(program, draft->spec);
  return std::move(program);
}

// Programs without gradients have no order of addition to choose.
RankOptions exact(RankOptions ranks) {
  ranks.deterministic = Deterministic::kStrict;
  return ranks;
}

void append(const std::vector<Value>& values, std::vector<Value>* to) {
  to->insert(to->end(), values.begin(), values.end());
}

// What a phase steps.
void check_phases(const Draft& draft) {
  for (int32_t p = 0; p < draft.facts.phases; ++p) {
    const std::vector<UnitFacts>& units = draft.facts.units;
    if (std::any_of(units.begin(), units.end(),
                    [p](const UnitFacts& unit) { return unit.steps && unit.backward_phase == p; }))
      continue;
    const std::string phase =
        draft.spec.phases.empty() ? "" : fmt::format(" in phase {}", draft.spec.phases[p]);
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("model {} has no parameters{}{}: there is nothing to train", draft.spec.architecture,
                    draft.spec.parameter_count() > 0 ? " that are not frozen" : "", phase));
  }
}

// Phase after phase, each through all generators and passes: none of them moves anything across its borders.
void generate_phases(const TrainOptions& options, Draft* draft) {
  const int stage = draft->placement().zero_stage;
  std::vector<DraftInstruction> all;
  for (; draft->phase < draft->facts.phases; ++draft->phase) {
    draft->list.clear();
    generate_training(options.ranks.pipeline, options.recompute, draft);
    gather_statistics(draft);
    if (stage == 3) gather_parameters(options.ranks.reshard, draft);
    add_and_reduce(draft);
    if (stage == 3) prefetch_gathers(options.ranks.prefetch_units, draft);
    generate_step(draft);
    if (draft->facts.flat.rounds_gradients()) round_gradients(draft);
    std::move(draft->list.begin(), draft->list.end(), std::back_inserter(all));
  }
  draft->list = std::move(all);
}

}  // namespace

Placement placement_for(const ModelSpec& spec, const Layout& layout, const RankOptions& options, int32_t k) {
  require_compilable(layout);
  require_compilable(layout, spec);
  const int tensor_ranks = layout.degree(Axis::kTensor);
  if (tensor_degree(spec) == 1 && tensor_ranks > 1) compilable_spec(layout, spec);  // says why not, where so
  FURROW_CHECK(tensor_degree(spec) == tensor_ranks, "a spec that tensor_cut() has not made for the layout");
  if (options.zero_stage < 1 || options.zero_stage > 3) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("[parallelism] zero_stage is {}: it must be 1, 2 or 3", options.zero_stage));
  }
  if (options.rank < 0 || options.rank >= layout.world()) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("rank {}: the world has ranks 0 to {}", options.rank, layout.world() - 1));
  }
  Placement placement{layout, options.rank, 0, TreeKind::kCanonical};
  if (placement.shards() > 1) placement.zero_stage = options.zero_stage;
  const bool by_ranks = options.deterministic == Deterministic::kOff ||
                        (options.deterministic == Deterministic::kAuto && !is_aligned(placement, k));
  if (by_ranks && placement.data_ranks() > 1) placement.tree = TreeKind::kByRanks;
  placement.stages = stages_of(spec, layout, options.pipeline);
  if (placement.data_ranks() > 1) placement.buckets = buckets_of(spec, options.bucket_bytes);
  return placement;
}

Program compile_train(const ModelSpec& spec, const Layout& layout, const TrainOptions& options) {
  check_sizes(options.microbatch_sizes);
  const Placement placement = placement_for(spec, layout, options.ranks, count(options.microbatch_sizes));
  Draft draft(spec, placement, "train", options.microbatch_sizes, options.optimizer_states);
  check_training(spec, placement, options);
  check_phases(draft);
  draft.program.inputs = draft.kept(0, true);
  generate_phases(options, &draft);
  append(draft.kept(1, true), &draft.program.outputs);
  return finish(&draft);
}

Program compile_evaluate(const ModelSpec& spec, const Layout& layout,
                         const std::vector<int64_t>& microbatch_sizes, const RankOptions& ranks) {
  check_sizes(microbatch_sizes);
  const Placement placement = placement_for(spec, layout, exact(ranks), count(microbatch_sizes));
  Draft draft(spec, placement, "evaluate", microbatch_sizes, {});
  draft.program.inputs = draft.kept(0, false);
  generate_evaluation(ranks.pipeline, &draft);
  if (placement.zero_stage == 3) gather_parameters(ranks.reshard, &draft);
  if (placement.zero_stage == 3) prefetch_gathers(ranks.prefetch_units, &draft);
  generate_measure(false, &draft);
  append(draft.program.inputs, &draft.program.outputs);
  return finish(&draft);
}

Program compile_predict(const ModelSpec& spec, const std::vector<int64_t>& microbatch_sizes) {
  check_sizes(microbatch_sizes);
  const int32_t k = count(microbatch_sizes);
  Draft draft(spec, placement_for(spec, Layout(), exact({}), k), "predict", microbatch_sizes, {});
  draft.program.inputs = draft.kept(0, false);
  generate_evaluation({}, &draft);
  for (int32_t m = 0; m < k; ++m)
    append({batch_value(m), act_value(draft.facts.prediction, m)}, &draft.program.outputs);
  append(draft.program.inputs, &draft.program.outputs);
  return finish(&draft);
}

Program compile_average(const ModelSpec& spec, const Layout& layout, const TrainOptions& options) {
  const Placement placement = placement_for(spec, layout, exact(options.ranks), 0);
  Draft draft(spec, placement, "average", {}, options.optimizer_states);
  FURROW_CHECK(draft.has_state(), "there is no average to swap");
  draft.program.inputs = draft.kept(0, true);
  generate_swaps(&draft);
  append(draft.kept(1, true), &draft.program.outputs);
  return finish(&draft);
}

Program compile_save(const ModelSpec& spec, const Layout& layout, const TrainOptions& options) {
  const Placement placement = placement_for(spec, layout, exact(options.ranks), 0);
  Draft draft(spec, placement, "save", {}, options.optimizer_states);
  draft.program.inputs = draft.kept(0, true);
  generate_snapshots(&draft);
  append(draft.program.inputs, &draft.program.outputs);
  return finish(&draft);
}

}  // namespace furrow::plan
