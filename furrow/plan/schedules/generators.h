// The generators of schedules.cc, one file each, and what they share.  Internal to plan.
#pragma once

#include <span>

#include "furrow/plan/schedule.h"

namespace furrow::plan {

std::string refuses_nothing(const ScheduleShape& shape);
std::string refuses_many_stages(const ScheduleShape& shape);     // other than one stage a rank
std::string refuses_other_than_two(const ScheduleShape& shape);  // other than two stages a rank

Schedule make_gpipe(const ScheduleShape& shape);
Schedule make_1f1b(const ScheduleShape& shape);
Schedule make_interleaved_1f1b(const ScheduleShape& shape);
Schedule make_looped_bfs(const ScheduleShape& shape);
Schedule make_zb_h1(const ScheduleShape& shape);
Schedule make_interleaved_zero_bubble(const ScheduleShape& shape);
Schedule make_zbv_zero_bubble(const ScheduleShape& shape);
Schedule make_dual_pipe_v(const ScheduleShape& shape);

// Schedules without actions.  Stage s on rank s % ranks; or down to the last rank and back up.
Schedule looped(std::string_view name, const ScheduleShape& shape);
Schedule v_shaped(std::string_view name, const ScheduleShape& shape);

struct Place {
  int32_t stage = 0;
  int32_t turn = 0;
};

// The turns in rounds of ranks() or a few more, of sizes that differ by at most 1; one round where there are
// fewer turns than ranks.  With a round shorter than the ranks a stage would wait for the one before it.
std::vector<int32_t> rounds_of(const ScheduleShape& shape);

// What a rank of a looped schedule does, depth first: in each round all its stages, each for the turns of the
// round.
std::vector<Place> depth_first(const ScheduleShape& shape, int32_t rank, bool backward);

// One forward, one backward, alternating.
struct Alternation {
  std::vector<Place> forwards, backwards;  // as many, in their order
  int32_t ahead = 0;                       // forwards before the first pair
  int32_t weights_behind = -1;  // backwards of inputs ahead of those of weights; -1: backward is whole
};
std::vector<Action> alternate(const Alternation& order);

// The actions of a rank with two stages, written down phase by phase: each call takes the next turn of the
// stage.  Shapes with fewer turns than a pattern needs are made with more and then cut (drop_turns).
class Pattern {
 public:
  Pattern(const Schedule& schedule, int32_t rank);

  void forward(int half) { add(Phase::kForward, half); }
  void backward(int half);         // whole
  void backward_input(int half);   // its weights' part waits in a queue
  void backward_weight();          // the longest in the queue; nothing where it is empty
  void backward_weight(int half);  // the longest in the queue of that stage
  int32_t forwards(int half) const { return forwards_[half]; }
  std::vector<Action> take() { return std::move(actions_); }

 private:
  void add(Phase phase, int half);

  int32_t stages_[2] = {0, 0};
  int32_t forwards_[2] = {0, 0}, backwards_[2] = {0, 0};
  std::vector<Place> queue_;
  std::vector<Action> actions_;
};

// Without the turns from `turns` on.  A valid schedule stays valid: no turn waits for another one but by
// order.
void drop_turns(int32_t turns, Schedule* schedule);

}  // namespace furrow::plan
