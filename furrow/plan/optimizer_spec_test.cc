#include "furrow/plan/optimizer_spec.h"

#include <gmock/gmock.h>

#include "furrow/base/error.h"

namespace furrow::plan {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(OptimizerSpec, SgdKeepsABufferOnlyWhereSomethingMovesByMomentum) {
  config::Optimizer optimizer;
  config::LrScheduler schedule;
  optimizer.name = "sgd";
  EXPECT_THAT(optimizer_states(optimizer, schedule), IsEmpty());
  schedule.decay_type = "one_cycle";
  EXPECT_THAT(optimizer_states(optimizer, schedule), ElementsAre("momentum_buffer"));
  schedule.decay_type = "cosine";
  optimizer.momentum = 0.9;
  EXPECT_THAT(optimizer_states(optimizer, schedule), ElementsAre("momentum_buffer"));
}

TEST(OptimizerSpec, StatesAreInTheOrderOfTheBuffers) {
  config::Optimizer optimizer;
  EXPECT_THAT(optimizer_states(optimizer, {}), ElementsAre("exp_avg", "exp_avg_sq"));
  optimizer.name = "lion";
  EXPECT_THAT(optimizer_states(optimizer, {}), ElementsAre("exp_avg"));
}

TEST(OptimizerSpec, UnknownNameListsTheKnownOnes) {
  try {
    find_optimizer_spec("adamv");
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_THAT(error.message(), HasSubstr("known: adam, adamw, lion, sgd"));
  }
}

}  // namespace
}  // namespace furrow::plan
