#include "furrow/train/lr_schedule.h"

#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "furrow/base/error.h"

namespace furrow::train {
namespace {

struct Fixture {
  config::LrScheduler schedule;
  config::Optimizer optimizer;
  Rates at(int64_t step, int64_t total) const { return rates_at({schedule, optimizer, total}, step); }
};

Fixture fixture(const char* type) {
  Fixture f;
  f.schedule.decay_type = type;
  f.optimizer.name = "sgd";
  f.optimizer.lr = 0.1;
  f.optimizer.momentum = 0.9;
  return f;
}

// torch.optim.lr_scheduler.OneCycleLR(max_lr=0.1, total_steps=10) of PyTorch 2.13, step by step.
TEST(LrSchedule, OneCycleIsPyTorchs) {
  constexpr double kExpected[][2] = {
      {0.0040000000000000036, 0.95},
      {0.052000000000000005, 0.8999999999999999},
      {0.1, 0.85},
      {0.09504846320134738, 0.854951556604879},
      {0.0811745653949763, 0.8688255099070633},
      {0.06112620219362893, 0.8888739533021842},
      {0.03887419780637107, 0.9111260466978157},
      {0.0188258346050237, 0.9311744900929366},
      {0.004951936798652629, 0.945048443395121},
      {4e-07, 0.95},
  };
  Fixture f = fixture("one_cycle");
  f.schedule.pct_start = 0.3;
  f.schedule.div_factor = 25;
  f.schedule.final_div_factor = 1e4;
  f.schedule.cycle_momentum = true;
  f.schedule.base_momentum = 0.85;
  f.schedule.max_momentum = 0.95;
  for (int step = 0; step < 10; ++step) {
    EXPECT_NEAR(f.at(step, 10).lr, kExpected[step][0], 1e-15) << step;
    EXPECT_NEAR(f.at(step, 10).momentum, kExpected[step][1], 1e-15) << step;
  }
  f.schedule.cycle_momentum = false;
  EXPECT_EQ(f.at(4, 10).momentum, 0.9);
}

TEST(LrSchedule, WarmsUpLinearly) {
  Fixture f = fixture("constant");
  f.schedule.warmup_steps = 4;
  EXPECT_DOUBLE_EQ(f.at(0, 10).lr, 0.1 * 1 / 5);
  EXPECT_DOUBLE_EQ(f.at(3, 10).lr, 0.1 * 4 / 5);
  EXPECT_DOUBLE_EQ(f.at(4, 10).lr, 0.1);
  EXPECT_DOUBLE_EQ(f.at(9, 10).lr, 0.1);
}

TEST(LrSchedule, LinearDecaysToTheFloorButNotBelow) {
  Fixture f = fixture("linear");
  f.schedule.min_lr_factor = 0.1;
  EXPECT_DOUBLE_EQ(f.at(0, 10).lr, 0.1);
  for (int step = 1; step < 10; ++step) EXPECT_LT(f.at(step, 10).lr, f.at(step - 1, 10).lr);
  EXPECT_NEAR(f.at(9, 10).lr, 0.1 * (0.1 + 0.9 * 0.1), 1e-15);
  EXPECT_NEAR(f.at(100, 10).lr, 0.01, 1e-15);
}

TEST(LrSchedule, DecayRatioHoldsTheRateFirst) {
  Fixture f = fixture("cosine");
  f.schedule.decay_ratio = 0.5;
  for (int step = 0; step <= 5; ++step) EXPECT_DOUBLE_EQ(f.at(step, 10).lr, 0.1) << step;
  EXPECT_LT(f.at(6, 10).lr, 0.1);
}

TEST(LrSchedule, CosineIsHalfWayAtHalfTime) {
  Fixture f = fixture("cosine");
  EXPECT_NEAR(f.at(50, 100).lr, 0.05, 1e-12);
}

// 1 - sqrt(progress): a quarter of the way down the rate has fallen by half.
TEST(LrSchedule, SqrtFallsFastFirst) {
  Fixture f = fixture("sqrt");
  EXPECT_NEAR(f.at(25, 100).lr, 0.05, 1e-12);
  EXPECT_NEAR(f.at(1000, 100).lr, 0, 1e-15);
  f.schedule.min_lr_factor = 0.2;
  EXPECT_NEAR(f.at(25, 100).lr, 0.1 * (0.2 + 0.8 * 0.5), 1e-12);
}

// torch.optim.lr_scheduler.StepLR(step_size=3, gamma=0.5) after two steps of warm-up.
TEST(LrSchedule, StepFallsByGammaAfterTheWarmUp) {
  Fixture f = fixture("step");
  f.schedule.warmup_steps = 2;
  f.schedule.step_size = 3;
  f.schedule.gamma = 0.5;
  const double expected[] = {0.1 / 3, 0.2 / 3, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.025};
  for (int step = 0; step < 9; ++step) EXPECT_NEAR(f.at(step, 10).lr, expected[step], 1e-15) << step;
}

TEST(LrSchedule, TotalStepsOfTheScheduleWins) {
  Fixture f = fixture("linear");
  f.schedule.total_steps = 20;
  EXPECT_DOUBLE_EQ(f.at(5, 10).lr, f.at(5, 20).lr);
}

TEST(LrSchedule, EveryRowIsFiniteOverTheRun) {
  for (const Schedule& schedule : schedules()) {
    Fixture f = fixture(std::string(schedule.name).c_str());
    for (const int64_t total : {1, 2, 3, 50}) {
      for (int64_t step = 0; step < total; ++step) {
        EXPECT_GE(f.at(step, total).lr, 0) << schedule.name << " " << step << " of " << total;
        EXPECT_LE(f.at(step, total).lr, 0.1 + 1e-12) << schedule.name;
      }
    }
  }
}

TEST(LrSchedule, UnknownNameListsTheKnown) {
  try {
    find_schedule("cosin");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_NE(std::string(error.what()).find("cosine"), std::string::npos);
  }
}

}  // namespace
}  // namespace furrow::train
