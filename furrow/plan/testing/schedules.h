// What every schedule must pass: the rows of the table, and one that a test adds.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

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

// Valid over its whole domain, which has its own default; no slower than one action at a time, no faster than
// its busiest rank; the CSV carries it.
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
    if (shape.turns % 5 != 0) return;  // a sample: the CSV does not care
    for (const ScheduleForm form : {ScheduleForm::kCompute, ScheduleForm::kCommunication}) {
      EXPECT_EQ(parse_schedule_csv(to_csv(schedule, form), schedule.name), schedule);
    }
  });
}

}  // namespace furrow::plan::testing
