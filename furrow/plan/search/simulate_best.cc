// Pass `simulate`: the best few, compiled and simulated as furrow train would run them.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <iterator>

#include "furrow/base/error.h"
#include "furrow/base/text.h"
#include "furrow/plan/search/state.h"
#include "furrow/plan/simulate.h"

namespace furrow::plan::search_internal {
namespace {

// A step of many turns repeats itself: two short steps tell what a turn adds.  Of powers of two, whose shares
// are aligned as most are.
struct ShortSteps {
  int32_t first = 0, second = 0;  // turns; 0: the step is short already
};

ShortSteps short_steps(const Choice& choice) {
  const auto ranks = static_cast<uint32_t>(choice.layout.degree(Axis::kPipeline));
  const auto first = static_cast<int32_t>(std::max(4U, std::bit_ceil(2 * ranks)));
  const bool any_length = ranks == 1 || choice.pipeline.csv.empty();
  return any_length && turns_of(choice) > 2 * first ? ShortSteps{first, 2 * first} : ShortSteps{};
}

Figures figures_of(const Simulation& simulation, const Choice& choice) {
  Figures figures;
  figures.step_s = simulation.step_s;
  figures.samples_per_second = static_cast<double>(samples_of_step(choice)) / simulation.step_s;
  figures.wire_bytes = static_cast<double>(simulation.wire_bytes);
  figures.bubble = simulation.bubble;
  figures.exposed_communication = simulation.exposed_communication;
  figures.cost = simulation.cost;
  figures.spot_cost = simulation.spot_cost;
  for (const SimulatedRank& rank : simulation.ranks) {
    figures.memory_bytes = std::max(figures.memory_bytes, rank.peak_total_bytes);
  }
  return figures;
}

// Figures are linear in turns; shares of a step are of seconds that are.
Figures extended(const Figures& first, const Figures& second, double steps, int64_t samples) {
  const auto at = [steps](double a, double b) { return a + steps * (b - a); };
  Figures figures;
  figures.step_s = at(first.step_s, second.step_s);
  figures.samples_per_second = static_cast<double>(samples) / figures.step_s;
  figures.wire_bytes = at(first.wire_bytes, second.wire_bytes);
  figures.bubble = at(first.bubble * first.step_s, second.bubble * second.step_s) / figures.step_s;
  figures.exposed_communication =
      at(first.exposed_communication * first.step_s, second.exposed_communication * second.step_s) /
      figures.step_s;
  figures.cost = at(first.cost, second.cost);
  figures.spot_cost = at(first.spot_cost, second.spot_cost);
  figures.memory_bytes = second.memory_bytes;
  return figures;
}

std::vector<Program> programs_of(const ModelSpec& spec, const State& state, const Choice& choice) {
  std::vector<Program> programs;
  for (const int rank : simulated_ranks(choice.layout))
    programs.push_back(compile_train(spec, choice.layout, train_options_of(state.request, choice, rank)));
  return programs;
}

}  // namespace

namespace {

Figures simulated(State& state, const Choice& choice) {
  const ModelSpec& spec = state.model(choice).spec;
  Figures figures = figures_of(simulate(programs_of(spec, state, choice), spec, state.costs), choice);
  figures.memory_bytes += state.costs.workspace_bytes() + state.table(choice).axis_bytes;
  return figures;
}

Choice with_turns(Choice choice, int32_t turns) {
  choice.batch.global_batch = choice.batch.local_batch * choice.layout.data_ranks() * turns;
  return choice;
}

// What the closed form says that more turns hold.
int64_t more_memory(State* state, const Plan& plan, const Choice& shorter) {
  Plan other = plan;
  other.candidate.choice = shorter;
  other.pipeline = pipeline_of(state, shorter);
  return std::ranges::max(memory_of(state, plan)) - std::ranges::max(memory_of(state, other));
}

}  // namespace

void simulate_plan(State* state, Plan* plan) {
  Candidate& candidate = plan->candidate;
  const Choice& choice = candidate.choice;
  const ShortSteps steps = short_steps(choice);
  if (steps.first == 0) {
    candidate.figures = simulated(*state, choice);
  } else {
    const Choice first = with_turns(choice, steps.first), second = with_turns(choice, steps.second);
    const double times = static_cast<double>(turns_of(choice) - steps.first) / (steps.second - steps.first);
    const int64_t memory = more_memory(state, *plan, second);
    candidate.figures =
        extended(simulated(*state, first), simulated(*state, second), times, samples_of_step(choice));
    candidate.figures.memory_bytes += memory;
  }
  candidate.simulated = true;
  plan->score = score_of(state->request, candidate);
}

namespace {

class Simulating {
 public:
  explicit Simulating(State* state) : state_(*state) {}

  void run() {
    std::vector<Plan> left = std::move(state_.plans);
    size_t wanted = std::min(state_.simulated_first, left.size());
    std::vector<Plan> first(std::make_move_iterator(left.begin()),
                            std::make_move_iterator(left.begin() + static_cast<ptrdiff_t>(wanted)));
    left.erase(left.begin(), left.begin() + static_cast<ptrdiff_t>(wanted));
    for (Plan& plan : first) {
      if (take(std::move(plan))) --wanted;
    }
    // Where the closed form was wrong another one takes its place.
    while (wanted > 0 && !left.empty()) {
      auto next =
          std::ranges::find_if(left, [&](const Plan& plan) { return variety_.adds(plan.candidate.choice); });
      if (next == left.end() && !done_.empty()) break;
      if (next == left.end()) next = left.begin();
      if (take(std::move(*next))) --wanted;
      left.erase(next);
    }
    std::ranges::stable_sort(done_, {}, &Plan::score);
    state_.notes.push_back(fmt::format("{} simulated", done_.size()));
    state_.plans = std::move(done_);
    state_.plans.insert(state_.plans.end(), std::make_move_iterator(left.begin()),
                        std::make_move_iterator(left.end()));
  }

 private:
  // False: it does not fit after all.
  bool take(Plan plan) {
    Candidate& candidate = plan.candidate;
    try {
      simulate_plan(&state_, &plan);
    } catch (const Error& error) {
      if (error.code() == ErrorCode::kInternal) throw;
      state_.refuse(std::move(candidate), error.message());
      return true;
    }
    if (candidate.figures.memory_bytes <= state_.memory_bytes || candidate.configured) {
      variety_.take(candidate.choice);
      done_.push_back(std::move(plan));
      return true;
    }
    candidate.reason =
        fmt::format("needs {} of {}", format_bytes(static_cast<uint64_t>(candidate.figures.memory_bytes)),
                    format_bytes(static_cast<uint64_t>(state_.memory_bytes)));
    state_.too_large.push_back(std::move(candidate));
    return false;
  }

  State& state_;
  Variety variety_;
  std::vector<Plan> done_;
};

}  // namespace

void simulate_best(State* state) { Simulating(state).run(); }

}  // namespace furrow::plan::search_internal
