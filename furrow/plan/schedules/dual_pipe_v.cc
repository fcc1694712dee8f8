// DualPipeV: DualPipe (DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, section 3.2.1) cut in half, so that
// parameters are held once: two stages a rank in a V, forward of one beside backward of the other, weights
// late at both ends.  The authors' account: bubble (p - 1) (F&B + B - 3 W) on a rank, 2 p + 1 turns of half a
// rank's units in flight, with F&B the time of a forward and a backward that overlap.  Here the two follow
// each other (F&B = F + B), and as neither waits for the other's operands the bubble is at most that.
#include <algorithm>

#include "furrow/plan/schedules/generators.h"

namespace furrow::plan {
namespace {

constexpr int kDown = 0, kUp = 1;  // the rank's stage on the way down, and on the way up

void pair(int forward, int backward, Pattern* pattern) {
  pattern->forward(forward);
  pattern->backward(backward);
}

void backward(int half, bool whole, Pattern* pattern) {
  if (whole) {
    pattern->backward(half);
  } else {
    pattern->backward_input(half);
  }
}

// After the last forward: the second half of what is left leaves the weights for later, and they fill the
// time in which gradients come up from the ranks below.
void drain(int32_t rank, int32_t below, Pattern* pattern) {
  for (int32_t i = 0; i < 2 * (rank + 1); ++i) {
    backward(i % 2 == 0 ? kUp : kDown, i <= rank, pattern);
  }
  for (int32_t i = 0; i < below; ++i) {
    pattern->backward_weight();
    backward(kDown, false, pattern);
  }
  for (int32_t i = 0; i < rank + 1; ++i) pattern->backward_weight();
}

std::vector<Action> actions_of(const Schedule& schedule, int32_t rank) {
  Pattern pattern(schedule, rank);
  const int32_t below = schedule.ranks - 1 - rank;
  for (int32_t i = 0; i < 2 * below; ++i) pattern.forward(kDown);
  for (int32_t i = 0; i < rank + 1; ++i) {
    pattern.forward(kDown);
    pattern.forward(kUp);
  }
  for (int32_t i = 0; i < below; ++i) {
    pattern.backward_input(kUp);
    pattern.backward_weight();
    pattern.forward(kUp);
  }
  while (pattern.forwards(kDown) < schedule.turns) {
    pair(kDown, kUp, &pattern);
    pair(kUp, kDown, &pattern);
  }
  for (int32_t i = 0; i < below; ++i) {
    pattern.backward(kUp);
    pair(kUp, kDown, &pattern);
  }
  drain(rank, below, &pattern);
  return pattern.take();
}

}  // namespace

Schedule make_dual_pipe_v(const ScheduleShape& shape) {
  ScheduleShape full = shape;
  full.turns = std::max(shape.turns, 2 * shape.ranks);
  Schedule schedule = v_shaped("DualPipeV", full);
  for (int32_t rank = 0; rank < shape.ranks; ++rank) schedule.actions[rank] = actions_of(schedule, rank);
  drop_turns(shape.turns, &schedule);
  return schedule;
}

}  // namespace furrow::plan
