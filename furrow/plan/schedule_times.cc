#include "furrow/plan/schedule_times.h"

#include <algorithm>

#include "furrow/base/error.h"
#include "furrow/plan/schedule_order.h"

namespace furrow::plan {
namespace {

double seconds_of(const StageTimes& times, Phase phase) {
  switch (phase) {
    case Phase::kForward:
      return times.forward;
    case Phase::kBackward:
      return times.backward_input + times.backward_weight;
    case Phase::kBackwardInput:
      return times.backward_input;
    case Phase::kBackwardWeight:
      return times.backward_weight;
  }
  FURROW_CHECK(false);
}

}  // namespace

ScheduleTimes time_schedule(const Schedule& schedule, const PhaseTimes& times) {
  FURROW_CHECK(times.stages.size() == 1 || times.stages.size() == static_cast<size_t>(schedule.stages));
  const ScheduleWaits steps(schedule);
  const Waits& waits = steps.waits;
  const auto ranks = static_cast<size_t>(schedule.ranks);
  ScheduleTimes result;
  result.busy.assign(ranks, 0);
  result.first.assign(ranks, 0);
  result.last.assign(ranks, 0);
  std::vector<double> end(steps.actions.size(), 0);
  std::vector<bool> started(ranks, false);
  for (const int32_t step : executable_order(waits)) {
    const Action& action = steps.actions[step];
    const auto rank = static_cast<size_t>(waits.rank_of[step]);
    double start = result.last[rank];
    for (const int32_t need : waits.needs[step]) {
      if (need < 0) continue;
      const bool here = waits.rank_of[need] == waits.rank_of[step];
      start = std::max(start, end[need] + (here ? 0 : times.transfer));
    }
    const double takes = seconds_of(times.stages[times.stages.size() == 1 ? 0 : action.stage], action.phase);
    if (!started[rank]) result.first[rank] = start;
    started[rank] = true;
    end[step] = result.last[rank] = start + takes;
    result.busy[rank] += takes;
  }
  double computing = 0;
  for (const double busy : result.busy) computing += busy;
  result.makespan = *std::max_element(result.last.begin(), result.last.end());
  if (result.makespan > 0) result.bubble = 1 - computing / (static_cast<double>(ranks) * result.makespan);
  return result;
}

}  // namespace furrow::plan
