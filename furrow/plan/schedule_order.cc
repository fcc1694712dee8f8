#include "furrow/plan/schedule_order.h"

#include <fmt/format.h>

#include <algorithm>

#include "furrow/base/error.h"

namespace furrow::plan {

ActionIndex::ActionIndex(const Schedule& schedule) : schedule_(schedule) {
  positions_.assign(kPhaseLetters.size() * schedule.stages * schedule.turns, -1);
  for (const std::vector<Action>& actions : schedule.actions) {
    for (size_t i = 0; i < actions.size(); ++i) positions_[slot(actions[i])] = static_cast<int32_t>(i);
  }
}

size_t ActionIndex::slot(const Action& action) const {
  return (static_cast<size_t>(action.phase) * schedule_.stages + action.stage) * schedule_.turns +
         action.turn;
}

int32_t ActionIndex::position(const Action& action) const { return positions_[slot(action)]; }

Action ActionIndex::backward(int32_t stage, int32_t turn) const {
  const Action whole = {Phase::kBackward, stage, turn};
  return position(whole) >= 0 ? whole : Action{Phase::kBackwardInput, stage, turn};
}

std::vector<Action> ActionIndex::needs(const Action& action) const {
  switch (action.phase) {
    case Phase::kForward:
      if (action.stage == 0) return {};
      return {{Phase::kForward, action.stage - 1, action.turn}};
    case Phase::kBackward:
    case Phase::kBackwardInput: {
      std::vector<Action> needs = {{Phase::kForward, action.stage, action.turn}};
      if (action.stage + 1 < schedule_.stages) needs.push_back(backward(action.stage + 1, action.turn));
      return needs;
    }
    case Phase::kBackwardWeight:
      return {{Phase::kBackwardInput, action.stage, action.turn}};
  }
  FURROW_CHECK(false);
}

namespace {

// Executes the schedule without a clock.
class Run {
 public:
  explicit Run(const Schedule& schedule)
      : schedule_(schedule), index_(schedule), next_(static_cast<size_t>(schedule.ranks), 0) {}

  // Until every rank is done or stuck.
  void run() {
    for (bool moved = true; moved;) {
      moved = false;
      for (int32_t rank = 0; rank < schedule_.ranks; ++rank) {
        while (!done(rank) && missing(rank) == nullptr) {
          ++next_[rank];
          moved = true;
        }
      }
    }
  }

  std::string cycle() {
    int32_t rank = 0;
    while (rank < schedule_.ranks && done(rank)) ++rank;
    if (rank == schedule_.ranks) return "";
    // A stuck rank waits for another stuck one, so after `ranks` steps the walk is inside a cycle.
    for (int32_t step = 0; step < schedule_.ranks; ++step) rank = rank_of(*missing(rank));
    return describe(rank);
  }

 private:
  bool done(int32_t rank) const { return next_[rank] == schedule_.actions[rank].size(); }
  const Action& head(int32_t rank) const { return schedule_.actions[rank][next_[rank]]; }
  int32_t rank_of(const Action& action) const { return schedule_.rank_of_stage[action.stage]; }

  // What the next action of a rank waits for; nullptr: it can go.
  const Action* missing(int32_t rank) {
    for (const Action& need : index_.needs(head(rank))) {
      if (index_.position(need) < static_cast<int32_t>(next_[rank_of(need)])) continue;
      missing_ = need;
      return &missing_;
    }
    return nullptr;
  }

  std::string describe(int32_t first) {
    std::string text = "cycle: ";
    int32_t rank = first;
    do {
      const Action need = *missing(rank);
      const int32_t other = rank_of(need);
      text += fmt::format("{}rank {} waits before {} for {}", rank == first ? "" : ", ", rank,
                          to_text(head(rank)), to_text(need));
      if (need != head(other))
        text += fmt::format(", which stands on rank {} behind {}", other, to_text(head(other)));
      rank = other;
    } while (rank != first);
    return text;
  }

  const Schedule& schedule_;
  ActionIndex index_;
  std::vector<size_t> next_;
  Action missing_;
};

}  // namespace

std::string find_cycle(const Schedule& schedule) {
  Run run(schedule);
  run.run();
  return run.cycle();
}

}  // namespace furrow::plan
