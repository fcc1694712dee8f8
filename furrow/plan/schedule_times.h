// How long a schedule takes if its actions take given times: an estimate without programs, for the theory of
// schedules and for the planner's first sieve.  plan/simulate.h is the thorough one.
#pragma once

#include <vector>

#include "furrow/plan/schedule.h"

namespace furrow::plan {

// One turn of a stage, in any unit.  kBackward takes both backward parts.
struct StageTimes {
  double forward = 1;
  double backward_input = 1;
  double backward_weight = 1;
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

// Each action as soon as its rank is free and what it needs is there.  REQUIRES: a valid schedule; times for
// one stage or for all.
ScheduleTimes time_schedule(const Schedule& schedule, const PhaseTimes& times = {{StageTimes{}}});

}  // namespace furrow::plan
