// GPipe: all forwards, then all backwards.  Huang et al., "GPipe: Efficient Training of Giant Neural Networks
// using Pipeline Parallelism", 2019.  Bubble (p - 1) / (m + p - 1); m turns in flight on every rank.
#include "furrow/plan/schedules/generators.h"

namespace furrow::plan {

Schedule make_gpipe(const ScheduleShape& shape) {
  Schedule schedule = looped("GPipe", shape);
  for (int32_t rank = 0; rank < shape.ranks; ++rank) {
    for (const Phase phase : {Phase::kForward, Phase::kBackward}) {
      for (int32_t turn = 0; turn < shape.turns; ++turn) {
        schedule.actions[rank].push_back({phase, rank, turn});
      }
    }
  }
  return schedule;
}

}  // namespace furrow::plan
