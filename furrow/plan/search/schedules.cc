// Pass `schedules`: for pipelines every schedule and number of stages a rank, cut by cost.
#include <fmt/format.h>

#include "furrow/plan/search/state.h"

namespace furrow::plan::search_internal {

void choose_schedules(State* state) {
  const std::vector<Plan> plans = std::move(state->plans);
  state->plans.clear();
  for (const Plan& plan : plans) {
    for (const OrderChoice& order : orders_of(state, plan.candidate.choice)) {
      Plan ordered = plan;
      Choice& choice = ordered.candidate.choice;
      choice = with_order(*state, std::move(choice), order);
      ordered.pipeline = outline_of(state, choice);
      if (!is_worth(*state, choice, least_estimate(state, ordered))) continue;
      ordered.pipeline = shared_pipeline(state, choice);
      state->plans.push_back(std::move(ordered));
    }
  }
  state->notes.push_back(fmt::format("{} orders timed", state->pipelines.made.size()));
}

}  // namespace furrow::plan::search_internal
