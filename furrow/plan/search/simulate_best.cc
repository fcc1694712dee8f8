// Pass `simulate`: the best few, compiled and simulated as furrow train would run them.
#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "furrow/base/error.h"
#include "furrow/base/text.h"
#include "furrow/plan/search/state.h"
#include "furrow/plan/simulate.h"

namespace furrow::plan::search_internal {
namespace {

// Units times turns whose programs are compiled in about a third of a second.
constexpr int64_t kMostUnitTurns = 24000;

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

// One program a pp coordinate, of the data rank with the longest share: the first.
std::vector<Program> representatives(const State& state, const Choice& choice) {
  std::vector<Program> programs;
  for (int pp = 0; pp < choice.layout.degree(Axis::kPipeline); ++pp) {
    std::array<int, 6> coordinates{};
    coordinates[static_cast<size_t>(Axis::kPipeline)] = pp;
    const int rank = choice.layout.rank_of(coordinates);
    programs.push_back(
        compile_train(state.spec, choice.layout, train_options_of(state.request, choice, rank)));
  }
  return programs;
}

}  // namespace

void simulate_plan(State* state, Plan* plan) {
  Candidate& candidate = plan->candidate;
  const std::vector<Program> programs = representatives(*state, candidate.choice);
  const Simulation simulation = simulate(programs, state->spec, state->costs);
  candidate.figures = figures_of(simulation, candidate.choice);
  candidate.simulated = true;
  plan->score = score_of(state->request, candidate);
}

void simulate_best(State* state) {
  std::vector<Plan> rest(std::make_move_iterator(state->plans.begin()),
                         std::make_move_iterator(state->plans.end()));
  std::vector<Plan> done, left;
  size_t wanted = state->simulated_first;
  int64_t budget = 4 * kMostUnitTurns;
  for (Plan& plan : rest) {
    Candidate& candidate = plan.candidate;
    const int64_t work = int64_t{state->units()} * turns_of(candidate.choice);
    if (wanted == 0 || work > kMostUnitTurns || work > budget) {
      left.push_back(std::move(plan));
      continue;
    }
    --wanted;
    budget -= work;
    try {
      simulate_plan(state, &plan);
    } catch (const Error& error) {
      if (error.code() == ErrorCode::kInternal) throw;
      state->refuse(std::move(candidate), error.message());
      continue;
    }
    if (candidate.figures.memory_bytes <= state->memory_bytes || candidate.configured) {
      done.push_back(std::move(plan));
      continue;
    }
    ++wanted;  // the closed form was wrong: the next one takes its place
    candidate.reason =
        fmt::format("needs {} of {}", format_bytes(static_cast<uint64_t>(candidate.figures.memory_bytes)),
                    format_bytes(static_cast<uint64_t>(state->memory_bytes)));
    state->too_large.push_back(std::move(candidate));
  }
  std::ranges::stable_sort(done, {}, &Plan::score);
  state->notes.push_back(fmt::format("{} simulated", done.size()));
  state->plans = std::move(done);
  state->plans.insert(state->plans.end(), std::make_move_iterator(left.begin()),
                      std::make_move_iterator(left.end()));
}

}  // namespace furrow::plan::search_internal
