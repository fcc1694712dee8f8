// What follows the microbatches: exact sums, the clip factor, the step; and snapshots.
#include <functional>
#include <utility>
#include <vector>

#include "furrow/plan/draft.h"
#include "furrow/plan/share.h"

namespace furrow::plan {
namespace {

void add_tied(int32_t u, Draft* draft) {
  const Part part = draft->placement().own_part();
  const int32_t k = draft->microbatches();
  Instruction& add = draft->emit(Op::kAddTied, u);
  add.reads = {gradient_value(u, 0, 0, k, part)};
  for (const TiedUse& tied : draft->facts.units[u].uses_by_others) {
    add.reads.push_back(gradient_value(u, tied.use, 0, k, part));
  }
  add.writes = {total_value(u, part)};
  if (draft->placement().replicas() == 1) return;
  Instruction& gather = draft->emit_comm(Op::kGatherGrads, u, GroupAxis::kReplicate);
  gather.reads = {total_value(u, part)};
  gather.writes = {total_value(u, draft->placement().step_part())};
}

void gather_updated(int32_t u, Draft* draft) {
  const Placement& placement = draft->placement();
  if (placement.params_part() == placement.step_part()) return;
  Instruction& gather = draft->emit_comm(Op::kGatherUpdated, u, GroupAxis::kShard);
  gather.predicate = Predicate::kFinite;
  gather.reads = {params_value(u, 1, placement.step_part())};
  gather.writes = {params_value(u, 1, placement.params_part())};
}

Instruction& transfer(Op op, int32_t u, int peer, Draft* draft) {
  Instruction& instruction = draft->emit_comm(op, u, GroupAxis::kPipeline);
  instruction.peer = peer;
  return instruction;
}

// Gradients of parameters whose owner is on another rank of the pipeline, to it.
void bring_tied(int32_t u, Draft* draft) {
  const Placement& placement = draft->placement();
  const int owner = placement.pipeline_rank_of(u), self = placement.pipeline_rank();
  for (const TiedUse& tied : draft->facts.units[u].uses_by_others) {
    const int user = placement.pipeline_rank_of(tied.user_unit);
    if (user == owner || (self != user && self != owner)) continue;
    const Value value = gradient_value(u, tied.use, 0, draft->microbatches(), placement.own_part());
    if (self == user) {
      transfer(Op::kSend, u, owner, draft).reads = {value};
      draft->unacknowledged.push_back(value);
    } else {
      transfer(Op::kRecv, u, user, draft).writes = {value};
    }
  }
}

// Stepped or swapped parameters, from their owner to the other ranks of the pipeline that use them.
void return_tied(int32_t u, Draft* draft) {
  const Placement& placement = draft->placement();
  const int owner = placement.pipeline_rank_of(u), self = placement.pipeline_rank();
  const Part part = placement.params_part();
  for (const int user : foreign_users(draft->facts, placement, u)) {
    if (self != user && self != owner) continue;
    Instruction& each =
        transfer(self == owner ? Op::kSend : Op::kRecv, u, self == owner ? user : owner, draft);
    each.predicate = Predicate::kFinite;
    if (self == owner) {
      each.reads = {params_value(u, 1, part)};
    } else {
      each.reads = {params_value(u, 0, part)};
      each.writes = {params_value(u, 1, part)};
    }
  }
}

Instruction& copy(Op op, int32_t u, Draft* draft) {
  Instruction& copy = draft->emit(op, u);
  copy.stream = Stream::kCopy;
  copy.predicate = Predicate::kFinite;
  return copy;
}

bool steps_now(const Draft& draft, int32_t u) {
  const UnitFacts& facts = draft.facts.units[u];
  return facts.steps && facts.backward_phase == draft.phase && draft.placement().holds(u);
}

// The units of a phase whose optimizer is on the host.  Beside the step of one, the gradient of the next
// comes down and what was stepped before goes up; who needs that comes a step later.
class HostSteps {
 public:
  explicit HostSteps(Draft* draft) : draft_(*draft), part_(draft->placement().step_part()) {
    for (int32_t u = 0; u < draft->units(); ++u) {
      if (draft->facts.flat.units[u].offload && steps_now(*draft, u)) units_.push_back(u);
    }
  }

  // REQUIRES: once for each of them, in order.
  void step(int32_t u) {
    if (down_ == 0) bring_down();
    bring_down();
    Instruction& step = draft_.emit(Op::kStep, u);
    step.predicate = Predicate::kFinite;
    step.reads = {state_value(u, 0, part_), hosted_value(u, 0, part_), scale_value(draft_.phase)};
    step.writes = {state_value(u, 1, part_), hosted_value(u, 1, part_)};
    finish();
    Instruction& up = copy(Op::kCopyUp, u, &draft_);
    up.reads = {params_value(u, 0, draft_.placement().params_part()), hosted_value(u, 1, part_)};
    up.writes = {params_value(u, 1, part_)};
    up_ = u;
  }

  // Of the last one that went up.
  void finish() {
    if (up_ >= 0) gather_updated(std::exchange(up_, -1), &draft_);
  }

 private:
  void bring_down() {
    if (down_ == units_.size()) return;
    const int32_t u = units_[down_++];
    Instruction& down = copy(Op::kCopyDown, u, &draft_);
    down.reads = {draft_.final_of(u, part_)};
    down.writes = {hosted_value(u, 0, part_)};
  }

  Draft& draft_;
  const Part part_;
  std::vector<int32_t> units_;
  size_t down_ = 0;  // of units_, what comes down next
  int32_t up_ = -1;  // went up, and is not gathered yet
};

void step(int32_t u, Draft* draft) {
  const Placement& placement = draft->placement();
  Instruction& step = draft->emit(Op::kStep, u);
  step.predicate = Predicate::kFinite;
  step.reads = {params_value(u, 0, placement.params_part())};
  step.writes = {params_value(u, 1, placement.step_part())};
  if (draft->has_state()) {
    step.reads.push_back(state_value(u, 0, placement.step_part()));
    step.writes.push_back(state_value(u, 1, placement.step_part()));
  }
  step.reads.push_back(draft->final_of(u, placement.step_part()));
  step.reads.push_back(scale_value(draft->phase));
}

// Once the last unit of a bucket has been stepped: all of them, side by side.
void gather_bucket(int32_t u, const std::function<bool(int32_t)>& stepped, Draft* draft) {
  const Placement& placement = draft->placement();
  for (int32_t v = u + 1; v < placement.bucket_end(u); ++v) {
    if (stepped(v)) return;
  }
  for (int32_t v = placement.bucket_of(u); v <= u; ++v) {
    if (stepped(v)) gather_updated(v, draft);
  }
}

// What every microbatch says, in microbatch order, whoever ran it.
void fold_statistics(int32_t u, Draft* draft) {
  Instruction& fold = draft->emit(Op::kFoldStats, u);
  fold.predicate = Predicate::kFinite;
  fold.reads = {stats_value(u, 0)};
  for (int32_t m = 0; m < draft->microbatches(); ++m) fold.reads.push_back(bn_stats_value(u, m));
  fold.reads.push_back(scale_value(draft->phase));
  fold.writes = {stats_value(u, 1)};
}

// The phase's verdict moves it, whether there is a step or not.
void update_scale(Draft* draft) {
  Instruction& update = draft->emit(Op::kUpdateScale);
  update.reads = {scale_value(draft->phase), loss_scale_value(0, draft->phase)};
  update.writes = {loss_scale_value(1, draft->phase)};
}

}  // namespace

void generate_measure(bool gradients, Draft* draft) {
  Instruction& measure = draft->emit(Op::kMeasure);
  for (int32_t u = 0; gradients && u < draft->units(); ++u) {
    if (steps_now(*draft, u)) measure.reads.push_back(draft->final_of(u, draft->placement().step_part()));
  }
  for (const int32_t h : draft->facts.heads_in(draft->phase)) {
    if (!draft->placement().holds(draft->facts.heads[h].unit)) continue;
    for (const int32_t m : microbatches_of(draft->placement(), draft->microbatches()))
      measure.reads.push_back(loss_value(m, h));
  }
  const Value own = sums_value(0, draft->phase), all = sums_value(1, draft->phase);
  measure.writes = {own};
  const GroupAxis axis = draft->placement().parts_axis();
  if (group_ranks(draft->placement(), axis).size() == 1) {
    draft->program.outputs.push_back(own);
    return;
  }
  Instruction& reduce = draft->emit_comm(Op::kReduceScalar, -1, axis);
  reduce.reads = {own};
  reduce.writes = {all};
  draft->program.outputs.push_back(all);
}

void generate_step(Draft* draft) {
  for (int32_t u = 0; u < draft->units(); ++u) bring_tied(u, draft);
  for (int32_t u = 0; u < draft->units(); ++u) {
    if (!draft->facts.units[u].uses_by_others.empty() && steps_now(*draft, u)) add_tied(u, draft);
  }
  generate_measure(true, draft);
  Instruction& clip = draft->emit(Op::kClip);
  clip.reads = {draft->program.outputs.back()};
  clip.writes = {scale_value(draft->phase)};
  draft->program.outputs.push_back(scale_value(draft->phase));
  if (draft->scales_loss()) {
    clip.reads.push_back(loss_scale_value(0, draft->phase));
    update_scale(draft);
  }
  HostSteps host(draft);
  for (int32_t u = 0; u < draft->units(); ++u) {
    if (steps_now(*draft, u) && draft->facts.flat.units[u].offload) {
      host.step(u);
    } else if (steps_now(*draft, u)) {
      step(u, draft);
      gather_bucket(u, [&](int32_t v) { return steps_now(*draft, v); }, draft);
    }
    if (draft->facts.units[u].folds && draft->placement().holds(u)) fold_statistics(u, draft);
  }
  host.finish();
  for (int32_t u = 0; u < draft->units(); ++u) return_tied(u, draft);
}

void generate_swaps(Draft* draft) {
  const Placement& placement = draft->placement();
  for (int32_t u = 0; u < draft->units(); ++u) {
    const bool steps = draft->facts.units[u].steps,
               statistics = draft->facts.flat.units[u].averages_statistics;
    if ((!steps && !statistics) || !placement.holds(u)) continue;
    Instruction& swap = draft->emit(Op::kSwapAverage, u);
    if (steps) {
      swap.reads = {params_value(u, 0, placement.params_part()), state_value(u, 0, placement.step_part())};
      swap.writes = {params_value(u, 1, placement.step_part()), state_value(u, 1, placement.step_part())};
    }
    if (statistics) {
      swap.reads.push_back(stats_value(u, 0));
      swap.writes.push_back(stats_value(u, 1));
    }
    if (!steps) continue;
    gather_bucket(u, [&](int32_t v) { return draft->facts.units[v].steps && placement.holds(v); }, draft);
  }
  for (int32_t u = 0; u < draft->units(); ++u) return_tied(u, draft);
}

void generate_snapshots(Draft* draft) {
  const Placement& placement = draft->placement();
  for (int32_t u = 0; u < draft->units(); ++u) {
    if (!draft->facts.units[u].owns || !placement.holds(u)) continue;
    Instruction& snapshot = draft->emit(Op::kSnapshot, u);
    snapshot.stream = Stream::kCopy;
    snapshot.reads = {params_value(u, 0, placement.params_part())};
    if (draft->has_state() && draft->facts.units[u].steps)
      snapshot.reads.push_back(state_value(u, 0, placement.step_part()));
    if (draft->facts.units[u].has_statistics && placement.writes_statistics())
      snapshot.reads.push_back(stats_value(u, 0));
    snapshot.writes = {snapshot_value(u, placement.own_part())};
    draft->program.outputs.push_back(snapshot_value(u, placement.own_part()));
  }
}

}  // namespace furrow::plan
