// Schedules: the table's rows over their domain, corrupted ones refused.
#include "furrow/plan/schedule.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <set>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/plan/testing/schedules.h"
#include "tests/testing/fuzz_replay.h"

namespace furrow::plan {
namespace {

std::string refusal(const Schedule& schedule) {
  try {
    validate(schedule);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  return "";
}

std::string refusal(std::string_view name, const ScheduleShape& shape) {
  try {
    make_schedule(name, shape);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  return "";
}

TEST(Schedule, EveryRowConforms) {
  for (const ScheduleRow& row : schedules()) testing::expect_conformance(row);
}

TEST(Schedule, NamesAreUnique) {
  std::set<std::string_view> names;
  for (const ScheduleRow& row : schedules()) EXPECT_TRUE(names.insert(row.name).second) << row.name;
}

// docs/concepts/schedules.md has the table with the domains.
TEST(Schedule, TableIsDocumented) {
  std::ifstream in(furrow::testing::source_root() / "docs/concepts/schedules.md");
  const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  for (const ScheduleRow& row : schedules()) {
    const std::string line = "| `" + std::string(row.name) + "` | " + std::string(row.domain) + " |";
    EXPECT_NE(text.find(line), std::string::npos) << line;
  }
}

TEST(Schedule, OutsideTheDomainIsRefused) {
  EXPECT_EQ(
      refusal("GPipe", {2, 2, 2}),
      "schedule GPipe: it has one stage a rank, not 2; Interleaved1F1B, LoopedBFS and InterleavedZeroBubble "
      "take any");
  EXPECT_EQ(refusal("ZBVZeroBubble", {2, 1, 2}),
            "schedule ZBVZeroBubble: it has two stages a rank, not 1; ZBH1 has one");
  EXPECT_EQ(refusal("DualPipeV", {2, 3, 2}),
            "schedule DualPipeV: it has two stages a rank, not 3; InterleavedZeroBubble takes any");
  EXPECT_EQ(refusal("1F1B", {0, 1, 2}),
            "schedule 1F1B: 0 ranks, 1 stages a rank, 2 turns: each must be at least 1");
  EXPECT_EQ(
      refusal("LoopedBFS", {2048, 1024, 1024}),
      "schedule LoopedBFS: 2048 ranks x 1024 stages x 1024 turns are more than 4194304 forward actions");
  EXPECT_EQ(refusal("1f1b", {2, 1, 2}),
            "unknown schedule '1f1b': known: 1F1B, DualPipeV, GPipe, Interleaved1F1B, InterleavedZeroBubble, "
            "LoopedBFS, ZBH1, ZBVZeroBubble");
}

TEST(Schedule, CycleIsNamed) {
  Schedule schedule = make_schedule("1F1B", {2, 1, 2});
  std::swap(schedule.actions[0][0], schedule.actions[0][2]);  // 0B0 first
  EXPECT_EQ(refusal(schedule),
            "schedule 1F1B: cycle: rank 0 waits before 0B0 for 0F0, which stands on rank 0 behind 0B0");
}

TEST(Schedule, WeightsWaitForInputs) {
  Schedule schedule = make_schedule("ZBH1", {1, 1, 1});
  std::swap(schedule.actions[0][1], schedule.actions[0][2]);
  EXPECT_EQ(refusal(schedule),
            "schedule ZBH1: cycle: rank 0 waits before 0W0 for 0I0, which stands on rank 0 behind 0W0");
}

// Every action left out, doubled, or on the wrong rank.
TEST(Schedule, EveryDamageIsRefused) {
  for (const ScheduleRow& row : schedules()) {
    const Schedule whole = make_schedule(row, {3, row.default_stages_per_rank, 4});
    for (size_t rank = 0; rank < 3; ++rank) {
      for (size_t i = 0; i < whole.actions[rank].size(); ++i) {
        const Action action = whole.actions[rank][i];
        Schedule damaged = whole;
        damaged.actions[rank].erase(damaged.actions[rank].begin() + static_cast<ptrdiff_t>(i));
        EXPECT_NE(refusal(damaged), "") << row.name << " without " << to_text(action);
        damaged.actions[(rank + 1) % 3].push_back(action);
        EXPECT_NE(refusal(damaged), "") << row.name << " moved " << to_text(action);
        damaged = whole;
        damaged.actions[rank].push_back(action);
        EXPECT_NE(refusal(damaged), "") << row.name << " twice " << to_text(action);
      }
    }
  }
}

TEST(Schedule, BadShapesAreRefused) {
  Schedule schedule = make_schedule("GPipe", {2, 1, 1});
  schedule.rank_of_stage = {0, 0};
  EXPECT_EQ(refusal(schedule), "schedule GPipe: rank 1 has no stage");
  schedule.rank_of_stage = {0, 2};
  EXPECT_EQ(refusal(schedule), "schedule GPipe: stage 1 is on rank 2 of 2");
  schedule.rank_of_stage = {0};
  EXPECT_EQ(refusal(schedule),
            "schedule GPipe: 2 stages and 2 ranks, but ranks of 1 stages and actions of 2 ranks");
  schedule = make_schedule("GPipe", {2, 1, 1});
  schedule.turns = 0;
  EXPECT_NE(refusal(schedule), "");
  schedule.turns = 1;
  schedule.actions[1][0].turn = 1;
  EXPECT_EQ(refusal(schedule), "schedule GPipe: rank 1: 1F1 is outside of 2 stages and 1 turns");
}

}  // namespace
}  // namespace furrow::plan
