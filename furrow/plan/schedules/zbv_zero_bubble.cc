// ZB-V: two stages a rank in a V, so that the first rank also has the last stage and gradients start where
// activations did.  Qi et al., "Zero Bubble Pipeline Parallelism", 2023, section 6.  With F = I = W = 1 and m
// >= 2 p - 1 no rank waits between its first and last action; 2 p turns of half a rank's units in flight, as
// much as 1F1B's first rank holds.
#include <algorithm>

#include "furrow/plan/schedules/generators.h"

namespace furrow::plan {
namespace {

constexpr int kDown = 0, kUp = 1;  // the rank's stage on the way down, and on the way up

void backward_split(int half, Pattern* pattern) {
  pattern->backward_input(half);
  pattern->backward_weight(half);
}

std::vector<Action> actions_of(const Schedule& schedule, int32_t rank) {
  Pattern pattern(schedule, rank);
  const int32_t hops = schedule.ranks - rank;  // to the end of the V, itself included
  for (int32_t i = 0; i < 2 * hops - 1; ++i) pattern.forward(kDown);
  for (int32_t i = 0; i < rank; ++i) {
    pattern.forward(kUp);
    pattern.forward(kDown);
  }
  for (int32_t i = 0; i < hops; ++i) {
    pattern.forward(kUp);
    backward_split(kUp, &pattern);
  }
  while (pattern.forwards(kUp) < schedule.turns) {
    if (pattern.forwards(kDown) < schedule.turns) pattern.forward(kDown);
    backward_split(kDown, &pattern);
    pattern.forward(kUp);
    backward_split(kUp, &pattern);
  }
  for (int32_t i = 0; i < rank; ++i) {
    pattern.backward_input(kDown);
    pattern.backward_input(kUp);
  }
  for (int32_t i = 0; i < hops; ++i) backward_split(kDown, &pattern);
  for (int32_t i = 0; i < rank; ++i) pattern.backward_weight(kUp);
  for (int32_t i = 0; i < rank; ++i) pattern.backward_weight(kDown);
  return pattern.take();
}

}  // namespace

Schedule make_zbv_zero_bubble(const ScheduleShape& shape) {
  ScheduleShape full = shape;
  full.turns = std::max(shape.turns, 2 * shape.ranks - 1);
  Schedule schedule = v_shaped("ZBVZeroBubble", full);
  for (int32_t rank = 0; rank < shape.ranks; ++rank) schedule.actions[rank] = actions_of(schedule, rank);
  drop_turns(shape.turns, &schedule);
  return schedule;
}

}  // namespace furrow::plan
