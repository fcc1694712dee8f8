// What the programs of every schedule must pass: of the rows of the table, and of one that a test adds.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "furrow/plan/compile.h"
#include "furrow/plan/testing/schedules.h"
#include "furrow/plan/testing/specs.h"
#include "furrow/plan/verify_world.h"
#include "tests/testing/sanitized.h"

namespace furrow::plan::testing {

// The programs of all ranks, each in its own stages and order.  By way of a CSV, which takes a schedule of
// any name.
inline std::vector<Program> programs_of(const Schedule& schedule, const ModelSpec& spec) {
  const Layout layout({schedule.ranks, 1, 1, 1, 1, 1}, schedule.ranks);
  TrainOptions options;
  options.microbatch_sizes.assign(schedule.turns, 2);
  options.ranks.pipeline.csv = to_csv(schedule);
  std::vector<Program> programs;
  for (options.ranks.rank = 0; options.ranks.rank < schedule.ranks; ++options.ranks.rank)
    programs.push_back(compile_train(spec, layout, options));
  return programs;
}

// Over the whole domain of the row, a unit a stage; the last weight is tied to the first.  A sanitizer, which
// looks at the code and not at the order of actions, sees a sample.
inline void expect_programs_verify(const ScheduleRow& row) {
  for_each_shape(row, [](const ScheduleShape& shape, const Schedule& schedule) {
    if (furrow::testing::kSanitized && shape.turns > 4 && shape.turns != 9) return;
    ModelSpec spec = chain(schedule.stages);
    if (schedule.stages > 1) spec.units.back().parameters[0].tied_to = "u0.weight";
    ASSERT_NO_THROW(verify_world(programs_of(schedule, spec), spec));
  });
}

}  // namespace furrow::plan::testing
