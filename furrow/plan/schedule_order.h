// What waits for what when lists of steps are executed, one list a rank.  Internal to plan.
#pragma once

#include <array>
#include <functional>
#include <string>
#include <vector>

#include "furrow/plan/schedule.h"

namespace furrow::plan {

// Steps have numbers of their own, from 0.  A step starts when those before it on its rank and those that it
// needs are done.
struct Waits {
  std::vector<std::vector<int32_t>> lists;    // by rank, in order of execution; each step once
  std::vector<std::array<int32_t, 2>> needs;  // by step; -1: none
  std::vector<int32_t> rank_of;               // by step
  std::function<std::string(int32_t)> text;   // of a step, for messages
};

// The steps in an order in which they can be executed; shorter than the lists where a cycle stops it.
// REQUIRES: needs are steps of the lists.
std::vector<int32_t> executable_order(const Waits& waits);

// "": no step waits for itself.  Else one line that names the cycle.
std::string find_cycle(const Waits& waits);

// Where each action of a schedule stands on its rank.
class ActionIndex {
 public:
  // REQUIRES: every action inside the schedule's stages and turns.
  explicit ActionIndex(const Schedule& schedule);
  int32_t position(const Action& action) const { return positions_[slot(action)]; }  // -1: nowhere

 private:
  size_t slot(const Action& action) const {
    return (static_cast<size_t>(action.phase) * stages_ + action.stage) * turns_ + action.turn;
  }

  size_t stages_ = 0, turns_ = 0;
  std::vector<int32_t> positions_;  // by phase, stage, turn
};

// Steps of a schedule: in the order of ranks, then of the rank's actions.  REQUIRES: a complete one.
struct ScheduleWaits {
  explicit ScheduleWaits(const Schedule& schedule);
  ScheduleWaits(const ScheduleWaits&) = delete;  // waits.text reads `actions`
  ScheduleWaits& operator=(const ScheduleWaits&) = delete;
  Waits waits;
  std::vector<Action> actions;  // by step
};

}  // namespace furrow::plan
