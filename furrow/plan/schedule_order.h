// What waits for what in a schedule.  Internal to plan.
#pragma once

#include <string>
#include <vector>

#include "furrow/plan/schedule.h"

namespace furrow::plan {

// Where each action stands.  REQUIRES: every action of the schedule inside its stages and turns.
class ActionIndex {
 public:
  explicit ActionIndex(const Schedule& schedule);

  // What must be done before `action`, as actions of the schedule: at most two.
  std::vector<Action> needs(const Action& action) const;
  int32_t position(const Action& action) const;  // on its rank; -1: not in the schedule

 private:
  size_t slot(const Action& action) const;
  Action backward(int32_t stage, int32_t turn) const;  // what makes the gradient of the stage's input

  const Schedule& schedule_;
  std::vector<int32_t> positions_;  // by phase, stage, turn
};

// "": no action waits for itself.  Else one line that names the cycle.  REQUIRES: a complete schedule.
std::string find_cycle(const Schedule& schedule);

}  // namespace furrow::plan
