#include "furrow/plan/schedule_times.h"

#include <algorithm>
#include <bit>
#include <utility>

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

// Nodes of the tree that a turn completes.
int32_t adds_of(const Action& action) {
  const bool adds = action.phase == Phase::kBackward || action.phase == Phase::kBackwardWeight;
  return adds ? std::countr_one(static_cast<uint32_t>(action.turn)) : 0;
}

}  // namespace

ScheduleClock::ScheduleClock(Schedule schedule) : schedule_(std::move(schedule)) {
  const ScheduleWaits waiting(schedule_);
  const Waits& waits = waiting.waits;
  const std::vector<int32_t> order = executable_order(waits);
  std::vector<int32_t> place(waiting.actions.size(), -1);
  for (size_t i = 0; i < order.size(); ++i) place[order[i]] = static_cast<int32_t>(i);
  steps_.reserve(order.size());
  for (const int32_t step : order) {
    Step& mine = steps_.emplace_back();
    mine.phase = waiting.actions[step].phase;
    mine.stage = waiting.actions[step].stage;
    mine.rank = waits.rank_of[step];
    mine.adds = adds_of(waiting.actions[step]);
    for (size_t i = 0; i < mine.needs.size(); ++i) {
      if (waits.needs[step][i] >= 0) mine.needs[i] = place[waits.needs[step][i]];
    }
  }
}

ScheduleTimes ScheduleClock::time(const PhaseTimes& times) const {
  FURROW_CHECK(times.stages.size() == 1 || times.stages.size() == static_cast<size_t>(schedule_.stages));
  const auto ranks = static_cast<size_t>(schedule_.ranks);
  ScheduleTimes result;
  result.busy.assign(ranks, 0);
  result.first.assign(ranks, 0);
  result.last.assign(ranks, 0);
  std::vector<double> end(steps_.size(), 0);
  std::vector<bool> started(ranks, false);
  for (size_t i = 0; i < steps_.size(); ++i) {
    const Step& step = steps_[i];
    const auto rank = static_cast<size_t>(step.rank);
    double start = result.last[rank];
    for (const int32_t need : step.needs) {
      if (need < 0) continue;
      const bool here = steps_[need].rank == step.rank;
      start = std::max(start, end[need] + (here ? 0 : times.transfer));
    }
    const StageTimes& stage = times.stages[times.stages.size() == 1 ? 0 : step.stage];
    const double takes = seconds_of(stage, step.phase) + step.adds * stage.add;
    if (!started[rank]) result.first[rank] = start;
    started[rank] = true;
    end[i] = result.last[rank] = start + takes;
    result.busy[rank] += takes;
  }
  double computing = 0;
  for (const double busy : result.busy) computing += busy;
  result.makespan = *std::max_element(result.last.begin(), result.last.end());
  if (result.makespan > 0) result.bubble = 1 - computing / (static_cast<double>(ranks) * result.makespan);
  return result;
}

ScheduleTimes time_schedule(const Schedule& schedule, const PhaseTimes& times) {
  return ScheduleClock(schedule).time(times);
}

double least_makespan(const std::vector<int32_t>& rank_of_stage, bool whole, int32_t turns,
                      const PhaseTimes& times) {
  FURROW_CHECK(times.stages.size() == rank_of_stage.size());
  struct Own {
    double before = -1, after = 0;         // of one turn on the stages below the rank's first
    double all = 0, needed_by_others = 0;  // of one turn on its own: with and without gradients of weights
  };
  std::vector<Own> ranks(static_cast<size_t>(std::ranges::max(rank_of_stage)) + 1);
  double before = 0, after = 0;
  for (size_t s = 0; s < rank_of_stage.size(); ++s) {
    if (s > 0 && rank_of_stage[s] != rank_of_stage[s - 1]) {
      before += times.transfer;
      after += times.transfer;
    }
    const StageTimes& stage = times.stages[s];
    Own& own = ranks[rank_of_stage[s]];
    if (own.before < 0) {
      own.before = before;
      own.after = after;
    }
    own.all += stage.all();
    own.needed_by_others += stage.forward + stage.backward_input;
    before += stage.forward;
    after += stage.backward_input + (whole ? stage.backward_weight : 0);
  }
  double least = 0;
  for (const Own& own : ranks) {
    if (own.before < 0) continue;
    const double work = turns * (whole ? own.all : own.needed_by_others);
    least = std::max({least, own.before + turns * own.all, own.before + work + own.after});
  }
  return least;
}

}  // namespace furrow::plan
