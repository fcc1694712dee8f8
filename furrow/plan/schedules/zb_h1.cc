// ZB-H1: 1F1B with backward in two; gradients of weights fill what was bubble.  Qi et al., "Zero Bubble
// Pipeline Parallelism", 2023, section 2.2: in the memory of 1F1B, at most p turns on every rank, a third of
// its bubble. Weights are r turns behind on rank r: with F = I = W = 1 bubble (p - 1) / (3 m + p - 1) for m
// >= p.
#include "furrow/plan/schedules/generators.h"

namespace furrow::plan {

Schedule make_zb_h1(const ScheduleShape& shape) {
  Schedule schedule = looped("ZBH1", shape);
  for (int32_t rank = 0; rank < shape.ranks; ++rank) {
    schedule.actions[rank] = alternate({.forwards = depth_first(shape, rank, false),
                                        .backwards = depth_first(shape, rank, true),
                                        .ahead = shape.ranks - 1 - rank,
                                        .weights_behind = rank});
  }
  return schedule;
}

}  // namespace furrow::plan
