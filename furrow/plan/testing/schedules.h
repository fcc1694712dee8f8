// What every schedule must pass: the rows of the table, and one that a test adds.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "furrow/plan/schedule.h"
#include "furrow/plan/schedule_csv.h"
#include "furrow/plan/schedule_times.h"

namespace furrow::plan::testing {

// Ranks 1 to 8, stages a rank 1 to 3, turns 1 to 32, as far as the row takes them.
template <class F>
void for_each_shape(const ScheduleRow& row, F&& check) {
  for (int32_t p = 1; p <= 8; ++p) {
    for (int32_t v = 1; v <= 3; ++v) {
      for (int32_t m = 1; m <= 32; ++m) {
        const ScheduleShape shape = {p, v, m};
        if (!row.refuses(shape).empty()) continue;
        SCOPED_TRACE(std::string(row.name) + " p " + std::to_string(p) + " v " + std::to_string(v) + " m " +
                     std::to_string(m));
        check(shape, make_schedule(row, shape));
      }
    }
  }
}

inline bool is_whole(const Schedule& schedule) {
  for (const std::vector<Action>& actions : schedule.actions) {
    for (const Action& action : actions) {
      if (action.phase == Phase::kBackwardInput) return false;
    }
  }
  return true;
}

// Stages of all kinds of lengths.
inline PhaseTimes uneven_times(int32_t stages) {
  PhaseTimes times;
  for (int32_t s = 0; s < stages; ++s) times.stages.push_back({1.0 + s % 3, 2.0 - s % 2, .5 + (s * 7) % 5});
  times.transfer = .25;
  return times;
}

// Valid over its whole domain, which has its own default; no slower than one action at a time, no faster than
// its busiest rank or what is known of its shape alone; the CSV carries it.
inline void expect_conformance(const ScheduleRow& row) {
  EXPECT_EQ(row.refuses({4, row.default_stages_per_rank, 8}), "") << row.name;
  EXPECT_FALSE(row.domain.empty());
  for_each_shape(row, [&](const ScheduleShape& shape, const Schedule& schedule) {
    ASSERT_NO_THROW(validate(schedule));
    EXPECT_EQ(schedule.name, row.name);
    EXPECT_EQ(schedule.ranks, shape.ranks);
    EXPECT_EQ(schedule.stages, shape.ranks * shape.stages_per_rank);
    EXPECT_EQ(schedule.turns, shape.turns);
    const ScheduleTimes times = time_schedule(schedule);
    EXPECT_LE(times.makespan, 3.0 * schedule.stages * schedule.turns);
    for (const double busy : times.busy) EXPECT_EQ(busy, 3.0 * shape.stages_per_rank * shape.turns);
    EXPECT_GE(times.bubble, 0);
    EXPECT_LT(times.bubble, 1);
    // The planner looks at one schedule of two turns a rank, for those of any length.
    const Schedule sample = make_schedule(row, {shape.ranks, shape.stages_per_rank, 2 * shape.ranks});
    EXPECT_EQ(sample.rank_of_stage, schedule.rank_of_stage);
    const PhaseTimes uneven = uneven_times(schedule.stages);
    EXPECT_LE(least_makespan(schedule.rank_of_stage, is_whole(sample), shape.turns, uneven),
              time_schedule(schedule, uneven).makespan);
    if (shape.turns % 5 != 0) return;  // a sample: the CSV does not care
    for (const ScheduleForm form : {ScheduleForm::kCompute, ScheduleForm::kCommunication}) {
      EXPECT_EQ(parse_schedule_csv(to_csv(schedule, form), schedule.name), schedule);
    }
  });
}

}  // namespace furrow::plan::testing
