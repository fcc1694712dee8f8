// Interleaved 1F1B with backward in two, as ZB-H1 is to 1F1B.  Qi et al., "Zero Bubble Pipeline Parallelism",
// 2023 (ZB-1p over several stages a rank).  With F = I = W = 1 bubble (p - 1) / (3 v m + p - 1) for m >= p;
// for m a multiple of p at most v p turns of a stage on every rank.
#include "furrow/plan/schedules/generators.h"

namespace furrow::plan {

Schedule make_interleaved_zero_bubble(const ScheduleShape& shape) {
  Schedule schedule = looped("InterleavedZeroBubble", shape);
  for (int32_t rank = 0; rank < shape.ranks; ++rank) {
    schedule.actions[rank] =
        alternate({.forwards = depth_first(shape, rank, false),
                   .backwards = depth_first(shape, rank, true),
                   .ahead = (shape.stages_per_rank - 1) * rounds_of(shape)[0] + shape.ranks - 1 - rank,
                   .weights_behind = rank});
  }
  return schedule;
}

}  // namespace furrow::plan
