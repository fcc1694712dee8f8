#include "furrow/plan/schedule_order.h"

#include <fmt/format.h>

#include "furrow/base/error.h"

namespace furrow::plan {
namespace {

// Executes lists without a clock.
class Run {
 public:
  explicit Run(const Waits& waits)
      : waits_(waits), next_(waits.lists.size(), 0), done_(waits.needs.size(), false) {
    order_.reserve(waits.needs.size());
  }

  // Until every rank is done or stuck.
  void run() {
    for (bool moved = true; moved;) {
      moved = false;
      for (size_t rank = 0; rank < next_.size(); ++rank) {
        while (next_[rank] < waits_.lists[rank].size() && missing(head(rank)) < 0) {
          order_.push_back(head(rank));
          done_[head(rank)] = true;
          ++next_[rank];
          moved = true;
        }
      }
    }
  }

  std::vector<int32_t> take_order() { return std::move(order_); }

  std::string cycle() const {
    size_t rank = 0;
    while (rank < next_.size() && next_[rank] == waits_.lists[rank].size()) ++rank;
    if (rank == next_.size()) return "";
    // A stuck rank waits for another stuck one, so after as many steps as ranks the walk is inside a cycle.
    for (size_t step = 0; step < next_.size(); ++step) rank = waits_.rank_of[missing(head(rank))];
    return describe(rank);
  }

 private:
  int32_t head(size_t rank) const { return waits_.lists[rank][next_[rank]]; }

  int32_t missing(int32_t step) const {  // -1: it can go
    for (const int32_t need : waits_.needs[step]) {
      if (need >= 0 && !done_[need]) return need;
    }
    return -1;
  }

  std::string describe(size_t first) const {
    std::string text = "cycle: ";
    size_t rank = first;
    do {
      const int32_t need = missing(head(rank));
      const auto other = static_cast<size_t>(waits_.rank_of[need]);
      text += fmt::format("{}rank {} waits before {} for {}", rank == first ? "" : ", ", rank,
                          waits_.text(head(rank)), waits_.text(need));
      if (need != head(other)) {
        text += fmt::format(", which stands on rank {} behind {}", other, waits_.text(head(other)));
      }
      rank = other;
    } while (rank != first);
    return text;
  }

  const Waits& waits_;
  std::vector<size_t> next_;  // by rank
  std::vector<bool> done_;    // by step
  std::vector<int32_t> order_;
};

}  // namespace

std::vector<int32_t> executable_order(const Waits& waits) {
  Run run(waits);
  run.run();
  return run.take_order();
}

std::string find_cycle(const Waits& waits) {
  Run run(waits);
  run.run();
  return run.cycle();
}

ActionIndex::ActionIndex(const Schedule& schedule)
    : stages_(static_cast<size_t>(schedule.stages)), turns_(static_cast<size_t>(schedule.turns)) {
  positions_.assign(kPhaseLetters.size() * stages_ * turns_, -1);
  for (const std::vector<Action>& actions : schedule.actions) {
    for (size_t i = 0; i < actions.size(); ++i) positions_[slot(actions[i])] = static_cast<int32_t>(i);
  }
}

ScheduleWaits::ScheduleWaits(const Schedule& schedule) {
  const auto turns = static_cast<size_t>(schedule.turns);
  const size_t places = static_cast<size_t>(schedule.stages) * turns;
  std::vector<int32_t> forward(places, -1), backward(places, -1);  // what makes the gradient of the input
  for (int32_t rank = 0; rank < schedule.ranks; ++rank) {
    std::vector<int32_t>& list = waits.lists.emplace_back();
    for (const Action& action : schedule.actions[rank]) {
      const auto step = static_cast<int32_t>(actions.size());
      const size_t place = action.stage * turns + action.turn;
      if (action.phase == Phase::kForward) forward[place] = step;
      if (action.phase == Phase::kBackward || action.phase == Phase::kBackwardInput) backward[place] = step;
      list.push_back(step);
      actions.push_back(action);
      waits.rank_of.push_back(rank);
    }
  }
  for (const Action& action : actions) {
    const size_t place = action.stage * turns + action.turn;
    std::array<int32_t, 2> needs = {-1, -1};
    if (action.phase == Phase::kForward) {
      if (action.stage > 0) needs[0] = forward[place - turns];
    } else if (action.phase == Phase::kBackwardWeight) {
      needs[0] = backward[place];
    } else {
      needs[0] = forward[place];
      if (action.stage + 1 < schedule.stages) needs[1] = backward[place + turns];
    }
    waits.needs.push_back(needs);
  }
  waits.text = [this](int32_t step) { return to_text(actions[step]); };
}

}  // namespace furrow::plan
