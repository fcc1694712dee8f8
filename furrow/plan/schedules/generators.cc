#include "furrow/plan/schedules/generators.h"

#include <fmt/format.h>

#include <algorithm>

#include "furrow/base/error.h"

namespace furrow::plan {

std::string refuses_nothing(const ScheduleShape& /*shape*/) { return ""; }

std::string refuses_many_stages(const ScheduleShape& shape) {
  if (shape.stages_per_rank == 1) return "";
  return fmt::format(
      "it has one stage a rank, not {}; Interleaved1F1B, LoopedBFS and InterleavedZeroBubble take any",
      shape.stages_per_rank);
}

std::string refuses_other_than_two(const ScheduleShape& shape) {
  if (shape.stages_per_rank == 2) return "";
  return fmt::format("it has two stages a rank, not {}; {}", shape.stages_per_rank,
                     shape.stages_per_rank == 1 ? "ZBH1 has one" : "InterleavedZeroBubble takes any");
}

Schedule looped(std::string_view name, const ScheduleShape& shape) {
  Schedule schedule;
  schedule.name = name;
  schedule.ranks = shape.ranks;
  schedule.stages = shape.ranks * shape.stages_per_rank;
  schedule.turns = shape.turns;
  for (int32_t stage = 0; stage < schedule.stages; ++stage) {
    schedule.rank_of_stage.push_back(stage % shape.ranks);
  }
  schedule.actions.resize(static_cast<size_t>(shape.ranks));
  return schedule;
}

Schedule v_shaped(std::string_view name, const ScheduleShape& shape) {
  Schedule schedule = looped(name, shape);
  for (int32_t stage = shape.ranks; stage < schedule.stages; ++stage) {
    schedule.rank_of_stage[stage] = schedule.stages - 1 - stage;
  }
  return schedule;
}

std::vector<int32_t> rounds_of(const ScheduleShape& shape) {
  const int32_t rounds = std::max(1, shape.turns / shape.ranks);
  std::vector<int32_t> sizes(static_cast<size_t>(rounds), shape.turns / rounds);
  for (int32_t i = 0; i < shape.turns % rounds; ++i) ++sizes[i];
  return sizes;
}

std::vector<Place> depth_first(const ScheduleShape& shape, int32_t rank, bool backward) {
  std::vector<Place> places;
  int32_t begin = 0;
  for (const int32_t size : rounds_of(shape)) {
    for (int32_t i = 0; i < shape.stages_per_rank; ++i) {
      const int32_t loop = backward ? shape.stages_per_rank - 1 - i : i;
      for (int32_t turn = begin; turn < begin + size; ++turn) {
        places.push_back({loop * shape.ranks + rank, turn});
      }
    }
    begin += size;
  }
  return places;
}

std::vector<Action> alternate(const Alternation& order) {
  const auto count = static_cast<int32_t>(order.forwards.size());
  const int32_t ahead = std::min(order.ahead, count);
  const bool split = order.weights_behind >= 0;
  const Phase phase = split ? Phase::kBackwardInput : Phase::kBackward;
  std::vector<Action> actions;
  const auto add = [&actions](Phase what, const Place& place) {
    actions.push_back({what, place.stage, place.turn});
  };
  for (int32_t i = 0; i < count + ahead; ++i) {
    if (i < count) add(Phase::kForward, order.forwards[i]);
    if (i < ahead) continue;
    add(phase, order.backwards[i - ahead]);
    const int32_t weights = i - ahead - order.weights_behind;
    if (split && weights >= 0) add(Phase::kBackwardWeight, order.backwards[weights]);
  }
  if (!split) return actions;
  for (int32_t i = std::max(0, count - order.weights_behind); i < count; ++i) {
    add(Phase::kBackwardWeight, order.backwards[i]);
  }
  return actions;
}

Pattern::Pattern(const Schedule& schedule, int32_t rank) : stages_{rank, schedule.stages - 1 - rank} {}

void Pattern::add(Phase phase, int half) {
  int32_t& turn = phase == Phase::kForward ? forwards_[half] : backwards_[half];
  actions_.push_back({phase, stages_[half], turn++});
}

void Pattern::backward(int half) { add(Phase::kBackward, half); }

void Pattern::backward_input(int half) {
  queue_.push_back({stages_[half], backwards_[half]});
  add(Phase::kBackwardInput, half);
}

void Pattern::backward_weight() {
  if (queue_.empty()) return;
  actions_.push_back({Phase::kBackwardWeight, queue_.front().stage, queue_.front().turn});
  queue_.erase(queue_.begin());
}

void Pattern::backward_weight(int half) {
  const auto found = std::find_if(queue_.begin(), queue_.end(),
                                  [&](const Place& place) { return place.stage == stages_[half]; });
  FURROW_CHECK(found != queue_.end(), fmt::format("no weights of stage {} wait", stages_[half]));
  actions_.push_back({Phase::kBackwardWeight, found->stage, found->turn});
  queue_.erase(found);
}

void drop_turns(int32_t turns, Schedule* schedule) {
  for (std::vector<Action>& actions : schedule->actions) {
    std::erase_if(actions, [turns](const Action& action) { return action.turn >= turns; });
  }
  schedule->turns = turns;
}

}  // namespace furrow::plan
