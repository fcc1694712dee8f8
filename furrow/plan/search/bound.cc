// Pass `bound`: what no schedule and no recompute makes better, of every layout and recipe; and the rounds in
// which the passes behind it take them, the best bounds first, until no bound is left below the scores of
// what is kept.  What is kept is what would be without bounds.
#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "furrow/plan/search/state.h"

namespace furrow::plan::search_internal {
namespace {

constexpr size_t kFirstRound = 8, kLargestRound = 512;

double score_of_seconds(const State& state, const Choice& choice, double seconds) {
  Candidate candidate;
  set_step(state, choice, seconds, &candidate.figures);
  return score_of(state.request, candidate);
}

// Of a step's computing and transfers, the quickest schedule's.
double least_makespan_of(State* state, const Choice& choice) {
  const PipelineCache::Key key{choice.layout.degree(Axis::kPipeline),
                               {choice.layout.degree(Axis::kTensor), choice.precision},
                               turns_of(choice),
                               choice.batch.local_batch,
                               "",
                               0};
  const auto [found, first] = state->pipelines.least_s.try_emplace(key, 0);
  if (!first) return found->second;
  double least = std::numeric_limits<double>::infinity();
  for (const OrderChoice& order : orders_of(state, choice)) {
    least = std::min(least, outline_of(state, with_order(*state, choice, order))->makespan_s);
  }
  return found->second = least;
}

// With the recipe's own candidates the best of it stays in the table, where it may change.
double limit_of(const State& state, const Choice& choice) {
  return changes_recipe(state, choice) ? state.limits.any : state.limits.as_given;
}

}  // namespace

bool is_worth(const State& state, const Choice& choice, double score) {
  return score <= limit_of(state, choice);
}

void bound_scores(State* state) {
  for (Plan& plan : state->plans) {
    const Choice& choice = plan.candidate.choice;
    const double batches = turns_of(choice) * state->table(choice).batch_s;
    plan.least_score = score_of_seconds(*state, choice, least_makespan_of(state, choice) + batches);
    plan.least_memory = least_memory_of(state, choice);
  }
}

Rounds::Rounds(State* state) : state_(*state), size_(kFirstRound) {
  bounded_ = !state->is_off("bound") && !state->is_off("prune");
  for (size_t i = 0; i < state->plans.size(); ++i) state->plans[i].order = i;
  waiting_ = std::move(state->plans);
  state->plans.clear();
  if (!bounded_) return;
  const auto fit = std::ranges::stable_partition(
      waiting_, [&](const Plan& plan) { return plan.least_memory <= state_.memory_bytes; });
  too_large_.assign(std::make_move_iterator(fit.begin()), std::make_move_iterator(fit.end()));
  waiting_.erase(fit.begin(), fit.end());
  std::ranges::stable_sort(waiting_, {}, &Plan::least_score);
  std::ranges::stable_sort(too_large_, {}, &Plan::least_memory);
}

bool Rounds::next() {
  state_.plans.clear();
  const size_t size = bounded_ ? size_ : waiting_.size();
  for (; at_ < waiting_.size() && state_.plans.size() < size; ++at_) {
    const Plan& plan = waiting_[at_];
    if (is_worth(state_, plan.candidate.choice, plan.least_score)) state_.plans.push_back(plan);
  }
  size_ = std::min(2 * size_, kLargestRound);
  if (state_.plans.empty()) next_to_fit();
  looked_at_ += state_.plans.size();
  return !state_.plans.empty();
}

// Of those that cannot fit, until the nearest are known.
void Rounds::next_to_fit() {
  std::vector<int64_t> known;
  for (const Candidate& each : state_.too_large) known.push_back(each.figures.memory_bytes);
  std::ranges::sort(known);
  for (; at_too_large_ < too_large_.size() && state_.plans.size() < kFirstRound; ++at_too_large_) {
    const Plan& plan = too_large_[at_too_large_];
    if (known.size() >= kNearest && known[kNearest - 1] <= plan.least_memory) return;
    if (is_worth(state_, plan.candidate.choice, plan.least_score)) state_.plans.push_back(plan);
  }
}

void Rounds::close() {
  // What was found again as the config has it is in the list already.
  std::erase_if(state_.plans, [&](const Plan& plan) {
    return state_.request.configured && !plan.candidate.configured &&
           same_program(plan.candidate.choice, *state_.request.configured);
  });
  known_.insert(known_.end(), std::make_move_iterator(state_.plans.begin()),
                std::make_move_iterator(state_.plans.end()));
  state_.plans.clear();
  std::ranges::stable_sort(known_, [](const Plan& a, const Plan& b) {
    return std::pair(a.score, a.order) < std::pair(b.score, b.order);
  });
  if (!bounded_) return;
  Choosing choosing(state_);
  for (const Plan& plan : known_) {
    choosing.next(plan.candidate);
    if (choosing.done()) state_.limits.any = std::min(state_.limits.any, plan.score);
    if (!choosing.done_as_given()) continue;
    state_.limits.as_given = std::min(state_.limits.as_given, plan.score);
    return;
  }
}

void Rounds::finish() { state_.plans = std::move(known_); }

std::string Rounds::note() const {
  return fmt::format("{} were looked at: the others cannot be among the best, or cannot fit", looked_at_);
}

}  // namespace furrow::plan::search_internal
