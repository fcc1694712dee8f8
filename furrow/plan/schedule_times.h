// How long a schedule takes if its actions take given times: an estimate without programs, for the theory of
// schedules and for the planner's first sieve.  plan/simulate.h is the thorough one.
#pragma once

#include <array>
#include <vector>

#include "furrow/plan/schedule.h"

namespace furrow::plan {

// One turn of a stage, in any unit.  kBackward takes both backward parts.
struct StageTimes {
  double forward = 1;
  double backward_input = 1;
  double backward_weight = 1;
  double add = 0;  // of gradients to those of other turns, as often as the tree has it after a turn
  double all() const { return forward + backward_input + backward_weight; }
};

struct PhaseTimes {
  std::vector<StageTimes> stages;  // one: for every stage
  double transfer = 0;             // of an activation or gradient to another rank; beside computing
};

struct ScheduleTimes {
  double makespan = 0;        // from the first start to the last end
  std::vector<double> busy;   // by rank
  std::vector<double> first;  // by rank: start of its first action
  std::vector<double> last;   // by rank: end of its last one
  double bubble = 0;          // 1 - sum of busy / (ranks x makespan)
};

// A schedule that is timed for many stage times: what waits for what is found out once.  Immutable, thread
// safe.
class ScheduleClock {
 public:
  explicit ScheduleClock(Schedule schedule);  // REQUIRES: a valid one
  const Schedule& schedule() const { return schedule_; }

  // Each action as soon as its rank is free and what it needs is there.  REQUIRES: times for one stage or for
  // all.
  ScheduleTimes time(const PhaseTimes& times) const;

 private:
  // An action, in an order in which all can be executed.
  struct Step {
    Phase phase = Phase::kForward;
    int32_t stage = 0, rank = 0;
    int32_t adds = 0;
    std::array<int32_t, 2> needs = {-1, -1};  // by place in that order; -1: none
  };

  Schedule schedule_;
  std::vector<Step> steps_;
};

ScheduleTimes time_schedule(const Schedule& schedule, const PhaseTimes& times = {{StageTimes{}}});

// What no order of a schedule's actions is quicker than: every rank waits for its first forward, does all
// that it has to, and the stages before its own follow with the last backward.  `rank_of_stage`: as in
// Schedule; `whole`: every backward is (kBackward).  REQUIRES: times for all stages.
double least_makespan(const std::vector<int32_t>& rank_of_stage, bool whole, int32_t turns,
                      const PhaseTimes& times);

}  // namespace furrow::plan
