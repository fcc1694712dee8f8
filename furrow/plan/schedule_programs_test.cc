// Every schedule over its whole domain, compiled: the programs of all ranks pass verify_world.
#include "furrow/plan/testing/schedule_programs.h"

#include <gtest/gtest.h>

namespace furrow::plan {
namespace {

TEST(SchedulePrograms, OfEveryRowVerify) {
  for (const ScheduleRow& row : schedules()) testing::expect_programs_verify(row);
}

}  // namespace
}  // namespace furrow::plan
