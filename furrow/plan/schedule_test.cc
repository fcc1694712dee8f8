// Schedules: valid over their domain, corrupted ones refused.
#include "furrow/plan/schedule.h"

#include <gtest/gtest.h>

#include <utility>

#include "furrow/base/error.h"

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

TEST(Schedule, EveryRowIsValidOverItsDomain) {
  for (const ScheduleRow& row : schedules()) {
    int made = 0;
    for (int32_t p = 1; p <= 8; ++p) {
      for (int32_t v = 1; v <= 3; ++v) {
        for (int32_t m = 1; m <= 32; ++m) {
          const ScheduleShape shape = {p, v, m};
          if (!row.refuses(shape).empty()) continue;
          const Schedule schedule = make_schedule(row, shape);
          EXPECT_EQ(schedule.name, row.name);
          EXPECT_EQ(schedule.stages, p * v);
          ASSERT_EQ(refusal(schedule), "") << "p " << p << " v " << v << " m " << m;
          ++made;
        }
      }
    }
    EXPECT_GT(made, 0) << row.name;
  }
}

TEST(Schedule, CycleIsNamed) {
  Schedule schedule = make_schedule("1F1B", {2, 1, 2});
  std::swap(schedule.actions[0][0], schedule.actions[0][2]);  // 0B0 first
  EXPECT_EQ(refusal(schedule),
            "schedule 1F1B: cycle: rank 0 waits before 0B0 for 0F0, which stands on rank 0 behind 0B0");
}

TEST(Schedule, UnknownNameListsTheKnownOnes) {
  EXPECT_THROW(make_schedule("2F2B", {2, 1, 2}), Error);
  EXPECT_THROW(make_schedule("GPipe", {2, 2, 2}), Error);
  EXPECT_THROW(make_schedule("GPipe", {0, 1, 2}), Error);
}

}  // namespace
}  // namespace furrow::plan
