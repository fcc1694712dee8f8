#include "furrow/plan/schedule.h"

#include <fmt/format.h>

#include <algorithm>

#include "furrow/base/error.h"
#include "furrow/plan/schedule_order.h"

namespace furrow::plan {
namespace {

[[noreturn]] void fail(const Schedule& schedule, const std::string& message) {
  throw Error(ErrorCode::kInvalidArgument, fmt::format("schedule {}: {}", schedule.name, message));
}

void check_shape(const Schedule& schedule) {
  const Schedule& s = schedule;
  if (s.ranks < 1 || s.stages < 1 || s.turns < 1 || int64_t{s.stages} * s.turns > kMostActions) {
    fail(s,
         fmt::format("{} ranks, {} stages, {} turns: each must be at least 1, and stages x turns at most {}",
                     s.ranks, s.stages, s.turns, kMostActions));
  }
  if (s.rank_of_stage.size() != static_cast<size_t>(s.stages) ||
      s.actions.size() != static_cast<size_t>(s.ranks)) {
    fail(s, fmt::format("{} stages and {} ranks, but ranks of {} stages and actions of {} ranks", s.stages,
                        s.ranks, s.rank_of_stage.size(), s.actions.size()));
  }
  std::vector<bool> used(static_cast<size_t>(s.ranks), false);
  for (int32_t stage = 0; stage < s.stages; ++stage) {
    const int32_t rank = s.rank_of_stage[stage];
    if (rank < 0 || rank >= s.ranks)
      fail(s, fmt::format("stage {} is on rank {} of {}", stage, rank, s.ranks));
    used[rank] = true;
  }
  const auto idle = std::find(used.begin(), used.end(), false);
  if (idle != used.end()) fail(s, fmt::format("rank {} has no stage", idle - used.begin()));
}

// Which phases a stage has gone through in a turn, as bits of Phase.
void check_complete(const Schedule& schedule) {
  std::vector<uint8_t> seen(static_cast<size_t>(schedule.stages) * schedule.turns, 0);
  for (int32_t rank = 0; rank < schedule.ranks; ++rank) {
    for (const Action& action : schedule.actions[rank]) {
      if (action.stage < 0 || action.stage >= schedule.stages || action.turn < 0 ||
          action.turn >= schedule.turns) {
        fail(schedule, fmt::format("rank {}: {} is outside of {} stages and {} turns", rank, to_text(action),
                                   schedule.stages, schedule.turns));
      }
      if (schedule.rank_of_stage[action.stage] != rank) {
        fail(schedule, fmt::format("rank {}: {}, but stage {} is on rank {}", rank, to_text(action),
                                   action.stage, schedule.rank_of_stage[action.stage]));
      }
      uint8_t& phases = seen[static_cast<size_t>(action.stage) * schedule.turns + action.turn];
      const auto bit = static_cast<uint8_t>(1 << static_cast<int>(action.phase));
      if (phases & bit) fail(schedule, fmt::format("rank {}: {} stands there twice", rank, to_text(action)));
      phases |= bit;
    }
  }
  constexpr uint8_t kWhole = 0b0011, kSplit = 0b1101;
  for (size_t i = 0; i < seen.size(); ++i) {
    if (seen[i] == kWhole || seen[i] == kSplit) continue;
    const auto stage = static_cast<int32_t>(i / schedule.turns),
               turn = static_cast<int32_t>(i % schedule.turns);
    std::string has;
    for (size_t phase = 0; phase < kPhaseLetters.size(); ++phase) {
      if (seen[i] >> phase & 1) has += kPhaseLetters[phase];
    }
    fail(schedule, fmt::format("stage {} has {} in turn {}: it must have F and B, or F, I and W", stage,
                               has.empty() ? "nothing" : has, turn));
  }
}

}  // namespace

std::string to_text(const Action& action) {
  return fmt::format("{}{}{}", action.stage, kPhaseLetters[static_cast<size_t>(action.phase)], action.turn);
}

void validate(const Schedule& schedule) {
  check_shape(schedule);
  check_complete(schedule);
  const ScheduleWaits steps(schedule);
  const std::string cycle = find_cycle(steps.waits);
  if (!cycle.empty()) fail(schedule, cycle);
}

std::vector<int32_t> most_in_flight(const Schedule& schedule) {
  std::vector<int32_t> most;
  for (const std::vector<Action>& actions : schedule.actions) {
    int32_t now = 0, peak = 0;
    for (const Action& action : actions) {
      if (action.phase == Phase::kForward) peak = std::max(peak, ++now);
      if (action.phase == Phase::kBackward || action.phase == Phase::kBackwardWeight) --now;
    }
    most.push_back(peak);
  }
  return most;
}

}  // namespace furrow::plan
