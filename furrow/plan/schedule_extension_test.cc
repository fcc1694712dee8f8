// docs/howto/add-a-schedule.md, followed: Eager1F1B in this one file, checked as every schedule is.
//
// Zhuang et al., "On Optimizing the Communication of Model Parallelism", 2022: 1F1B with twice the forwards
// ahead, so that a transfer has the time of one more turn to arrive.
#include <gtest/gtest.h>

#include <algorithm>

#include "furrow/plan/schedule.h"
#include "furrow/plan/schedule_times.h"
#include "furrow/plan/schedules/generators.h"
#include "furrow/plan/testing/schedule_programs.h"
#include "furrow/plan/testing/schedules.h"

namespace furrow::plan {
namespace {

Schedule make_eager_1f1b(const ScheduleShape& shape) {
  Schedule schedule = looped("Eager1F1B", shape);
  for (int32_t rank = 0; rank < shape.ranks; ++rank) {
    schedule.actions[rank] = alternate({.forwards = depth_first(shape, rank, false),
                                        .backwards = depth_first(shape, rank, true),
                                        .ahead = 2 * (shape.ranks - 1 - rank)});
  }
  return schedule;
}

constexpr ScheduleRow kEager = {"Eager1F1B", 1, "1 stage a rank", &refuses_many_stages, &make_eager_1f1b};

TEST(ScheduleExtension, Conforms) { testing::expect_conformance(kEager); }

TEST(ScheduleExtension, ProgramsVerify) { testing::expect_programs_verify(kEager); }

TEST(ScheduleExtension, Bubble) {
  testing::for_each_shape(kEager, [](const ScheduleShape& shape, const Schedule& schedule) {
    const double idle = shape.ranks - 1;
    EXPECT_NEAR(time_schedule(schedule).bubble, idle / (shape.turns + idle), 1e-12);
  });
}

TEST(ScheduleExtension, TurnsInFlight) {
  testing::for_each_shape(kEager, [](const ScheduleShape& shape, const Schedule& schedule) {
    for (int32_t rank = 0; rank < shape.ranks; ++rank) {
      EXPECT_EQ(most_in_flight(schedule)[rank], std::min(shape.turns, 2 * (shape.ranks - rank) - 1));
    }
  });
}

// What it is for: with transfers that take time its bubble is the smaller one.
TEST(ScheduleExtension, HidesTransfers) {
  PhaseTimes times = {{StageTimes{1, 1, 1}}, .5};
  EXPECT_LT(time_schedule(make_schedule(kEager, {4, 1, 16}), times).makespan,
            time_schedule(make_schedule("1F1B", {4, 1, 16}), times).makespan);
}

}  // namespace
}  // namespace furrow::plan
