// 1F1B: one forward, one backward as soon as the first gradient is there.  Narayanan et al., "PipeDream:
// Generalized Pipeline Parallelism for DNN Training", 2019, with a flush at the end of the step.
// Bubble (p - 1) / (m + p - 1), as GPipe; but rank r holds min(m, p - r) turns only.
#include "furrow/plan/schedules/generators.h"

namespace furrow::plan {

Schedule make_1f1b(const ScheduleShape& shape) {
  Schedule schedule = looped("1F1B", shape);
  for (int32_t rank = 0; rank < shape.ranks; ++rank) {
    schedule.actions[rank] = alternate({.forwards = depth_first(shape, rank, false),
                                        .backwards = depth_first(shape, rank, true),
                                        .ahead = shape.ranks - 1 - rank});
  }
  return schedule;
}

}  // namespace furrow::plan
