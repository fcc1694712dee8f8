// Passes `prune` and `balance`: the few candidates that are worth a simulation, and their stages made even.
#include <fmt/format.h>

#include <algorithm>

#include "furrow/plan/search/state.h"

namespace furrow::plan::search_internal {
namespace {

constexpr size_t kListed = 32;    // that results show
constexpr size_t kAsGiven = 2;    // of the request's recipe, where it may change: what the change is worth
constexpr size_t kSchedules = 2;  // of a layout and ZeRO stage
constexpr int kMoves = 6;

// The stage that holds the pipeline up: most seconds on the busiest rank.
int32_t slowest_stage(const Pipeline& pipeline, const UnitTable& table) {
  int32_t slowest = 0;
  double most = -1;
  for (size_t s = 0; s < pipeline.stages.size(); ++s) {
    double seconds = pipeline.busy_s[pipeline.rank_of_stage[s]];
    double own = 0;
    for (int32_t u = pipeline.stages[s].begin; u < pipeline.stages[s].end; ++u) {
      own += table.forward_s[u] + table.input_s[u] + table.weight_s[u];
    }
    seconds += own;  // of the rank's stages the longer one
    if (pipeline.stages[s].size() > 1 && seconds > most) {
      most = seconds;
      slowest = static_cast<int32_t>(s);
    }
  }
  return slowest;
}

std::vector<int64_t> sizes_of(const Pipeline& pipeline) {
  std::vector<int64_t> sizes;
  for (const Range& stage : pipeline.stages) sizes.push_back(stage.size());
  return sizes;
}

// One unit of stage s moved to a neighbour, if the order ends sooner with it.
bool move_unit(State* state, Plan* plan) {
  const Pipeline& now = *plan->pipeline;
  const int32_t s = slowest_stage(now, state->table(plan->candidate.choice));
  std::shared_ptr<const Pipeline> best;
  std::vector<int64_t> best_sizes;
  for (const int32_t to : {s - 1, s + 1}) {
    if (to < 0 || to >= static_cast<int32_t>(now.stages.size()) || now.stages[s].size() < 2) continue;
    Choice choice = plan->candidate.choice;
    choice.pipeline.units_per_stage = sizes_of(now);
    --choice.pipeline.units_per_stage[s];
    ++choice.pipeline.units_per_stage[to];
    const std::shared_ptr<const Pipeline> moved = pipeline_of(state, choice);
    if (moved->makespan_s < (best ? best->makespan_s : now.makespan_s) * (1 - 1e-9)) {
      best = moved;
      best_sizes = choice.pipeline.units_per_stage;
    }
  }
  if (!best) return false;
  plan->pipeline = best;
  plan->candidate.choice.pipeline.units_per_stage = best_sizes;
  return true;
}

}  // namespace

Variety::Key Variety::key(const Choice& choice) {
  const Layout& layout = choice.layout;
  return {{layout.degree(Axis::kPipeline), layout.degree(Axis::kReplicate), layout.degree(Axis::kShard),
           layout.degree(Axis::kTensor)},
          choice.zero_stage};
}

bool Variety::adds(const Choice& choice) const {
  const auto found = taken_.find(key(choice));
  if (found == taken_.end()) return true;
  const std::set<std::string>& schedules = found->second;
  return schedules.size() < kSchedules && !schedules.contains(choice.pipeline.schedule);
}

Choosing::What Choosing::next(const Candidate& candidate) {
  const Choice& choice = candidate.choice;
  const bool few = simulated_ < state_.request.keep && variety_.adds(choice);
  const bool changed = changes_recipe(state_, choice);
  const bool compares = state_.request.allow_recipe_change && !changed && as_given_ < kAsGiven;
  if (few || compares || candidate.configured) {
    variety_.take(choice);
    if (!changed) ++as_given_;
    ++simulated_;
    return What::kSimulated;
  }
  if (listed_ == kListed) return What::kLeft;
  ++listed_;
  return What::kListed;
}

bool Choosing::done() const { return simulated_ >= state_.request.keep && listed_ == kListed; }

bool Choosing::done_as_given() const {
  return done() && (!state_.request.allow_recipe_change || as_given_ >= kAsGiven);
}

void prune(State* state) {
  std::vector<Plan> kept, rest;
  Choosing choosing(*state);
  for (Plan& plan : state->plans) {
    const Choosing::What what = choosing.next(plan.candidate);
    if (what == Choosing::What::kSimulated) kept.push_back(std::move(plan));
    if (what == Choosing::What::kListed) rest.push_back(std::move(plan));
  }
  state->simulated_first = kept.size();
  state->plans = std::move(kept);
  state->plans.insert(state->plans.end(), std::make_move_iterator(rest.begin()),
                      std::make_move_iterator(rest.end()));
  state->notes.push_back(fmt::format("{} to simulate", state->simulated_first));
}

void balance_stages(State* state) {
  int moves = 0;
  for (size_t i = 0; i < std::min(state->simulated_first, state->plans.size()); ++i) {
    Plan& plan = state->plans[i];
    if (plan.candidate.configured || plan.pipeline->stages.size() < 2) continue;
    Plan changed = plan;
    int own = 0;
    while (own < kMoves && move_unit(state, &changed)) ++own;
    changed.candidate.figures.memory_bytes = std::ranges::max(memory_of(state, changed));
    if (own == 0 || changed.candidate.figures.memory_bytes > state->memory_bytes) continue;
    estimate(state, &changed);
    if (changed.score >= plan.score) continue;
    plan = std::move(changed);
    moves += own;
  }
  state->notes.push_back(fmt::format("{} units moved between stages", moves));
}

}  // namespace furrow::plan::search_internal
