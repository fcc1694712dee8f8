// Passes `degrees` and `zero`: every product of axes that is the world, and every ZeRO stage of it.
#include <fmt/format.h>

#include <algorithm>

#include "furrow/base/error.h"
#include "furrow/plan/compatibility.h"
#include "furrow/plan/search/state.h"
#include "furrow/plan/tensor_cut.h"

namespace furrow::plan::search_internal {
namespace {

std::vector<int> divisors_of(int number) {
  std::vector<int> divisors;
  for (int d = 1; d <= number; ++d) {
    if (number % d == 0) divisors.push_back(d);
  }
  return divisors;
}

void add(State* state, int pp, int replicas, int shards, int tensor) {
  Plan plan;
  Choice& choice = plan.candidate.choice;
  choice.layout = Layout({pp, replicas, shards, 1, tensor, 1}, pp * replicas * shards * tensor);
  choice.batch = state->request.batch;
  choice.recompute.assign(state->spec.units.size(), false);
  std::string reason = refusal_of_layout(*state, choice);
  // Else pass `batch` sees whether another batch is enough for the layout.
  if (reason.empty() && !recipe_is_searched(*state)) reason = refusal_of_batch(choice);
  if (reason.empty()) {
    state->plans.push_back(std::move(plan));
  } else {
    state->refuse(std::move(plan.candidate), std::move(reason));
  }
}

// Axes that plan does not compile: said once, by the row of compatibility.cc.
void note_refused_axes(State* state) {
  for (const Axis axis : {Axis::kPipeline, Axis::kContext, Axis::kExpert}) {
    std::array<int, 6> degrees = {1, 1, 1, 1, 1, 1};
    degrees[static_cast<size_t>(axis)] = 2;
    try {
      require_compilable(Layout(degrees, 2));
    } catch (const Error& error) {
      std::string text = error.message();
      text = text.substr(0, text.find(';'));
      state->notes.push_back(text.substr(text.find(": ") + 2) +
                             fmt::format(" ({})", kAxisNames[static_cast<size_t>(axis)]));
    }
  }
}

// Inside a host: what units exchange is on the way of every one of them.
std::vector<int> tensor_degrees(State* state) {
  std::vector<int> degrees;
  std::string said;
  for (const int degree : divisors_of(state->cluster.world())) {
    if (degree > state->cluster.devices) break;
    const std::string reason = refuses_tensor_cut(state->spec, degree);
    if (reason.empty()) {
      degrees.push_back(degree);
    } else if (reason != said) {
      state->notes.push_back(fmt::format("tp {}: {}", degree, reason));
      said = reason;
    }
  }
  return degrees;
}

}  // namespace

std::string refusal_of_layout(const State& state, const Choice& choice) {
  try {
    require_compilable(choice.layout);
  } catch (const Error& error) {
    return error.message();
  }
  // Without what to set: that is for who has chosen the layout.
  if (std::string reason = refuses_chains(choice.layout, state.spec); !reason.empty()) return reason;
  const int tensor = choice.layout.degree(Axis::kTensor);
  if (const std::string reason = refuses_tensor_cut(state.spec, tensor); !reason.empty())
    return fmt::format("tp {}: {}", tensor, reason);
  const int stages = choice.layout.degree(Axis::kPipeline);
  if (stages > state.units()) {
    return fmt::format("pp {}: the model has {} units, and each stage needs one", stages, state.units());
  }
  return "";
}

std::string refusal_of_batch(const Choice& choice) {
  const int ranks = choice.layout.data_ranks();
  if (choice.batch.global_batch > 0 && ranks > microbatches(choice)) {
    return fmt::format("{} data ranks for {} microbatches (global batch {} / local batch {}): each needs one",
                       ranks, microbatches(choice), choice.batch.global_batch, choice.batch.local_batch);
  }
  return "";
}

std::string refusal_of(const State& state, const Choice& choice) {
  std::string reason = refusal_of_layout(state, choice);
  return reason.empty() ? refusal_of_batch(choice) : reason;
}

void choose_degrees(State* state) {
  const int world = state->cluster.world();
  for (const int tensor : tensor_degrees(state)) {
    const int rest = world / tensor;
    for (const int pp : divisors_of(rest)) {
      for (const int shards : divisors_of(rest / pp)) add(state, pp, rest / pp / shards, shards, tensor);
    }
  }
  note_refused_axes(state);
}

void choose_zero_stages(State* state) {
  std::vector<Plan> plans = std::move(state->plans);
  state->plans.clear();
  const bool all = !state->is_off("zero");
  const int first = all ? 1 : state->request.ranks.zero_stage, last = all ? 3 : first;
  for (const Plan& plan : plans) {
    const bool shards = plan.candidate.choice.layout.degree(Axis::kShard) > 1;
    for (int stage = shards ? first : 0; stage <= (shards ? last : 0); ++stage) {
      state->plans.push_back(plan);
      state->plans.back().candidate.choice.zero_stage = stage;
    }
  }
}

}  // namespace furrow::plan::search_internal
