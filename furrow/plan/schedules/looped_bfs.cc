// Breadth first: every stage of the rank for all turns, then the next one.  Lamy-Poirier, "Breadth-First
// Pipeline Parallelism", 2022.  Sharded parameters of a stage are gathered once for all turns.  Bubble (p -
// 1) / (v m + p - 1) for m >= p; v m turns of a stage in flight.  GPipe with v = 1, turns backwards.
#include "furrow/plan/schedules/generators.h"

namespace furrow::plan {

Schedule make_looped_bfs(const ScheduleShape& shape) {
  Schedule schedule = looped("LoopedBFS", shape);
  for (int32_t rank = 0; rank < shape.ranks; ++rank) {
    std::vector<Action>& actions = schedule.actions[rank];
    for (int32_t stage = rank; stage < schedule.stages; stage += shape.ranks) {
      for (int32_t turn = 0; turn < shape.turns; ++turn) actions.push_back({Phase::kForward, stage, turn});
    }
    for (size_t i = actions.size(); i-- > 0;) {
      actions.push_back({Phase::kBackward, actions[i].stage, actions[i].turn});
    }
  }
  return schedule;
}

}  // namespace furrow::plan
