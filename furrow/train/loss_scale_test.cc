#include "furrow/train/loss_scale.h"

#include <gtest/gtest.h>

#include <cmath>

namespace furrow::train {
namespace {

// What torch.amp.GradScaler's update does with init_scale 8, growth_interval 3, after each verdict.
TEST(LossScaleRule, IsThatOfGradScaler) {
  config::GradScaler rule;
  rule.growth_interval = 3;
  LossScale scale{8, 0};
  const struct {
    bool finite;
    LossScale after;
  } steps[] = {{true, {8, 1}},  {true, {8, 2}},  {true, {16, 0}}, {true, {16, 1}},
               {false, {8, 0}}, {false, {4, 0}}, {true, {4, 1}},  {true, {4, 2}},
               {false, {2, 0}}, {true, {2, 1}},  {true, {2, 2}},  {true, {4, 0}}};
  for (const auto& step : steps) {
    scale = next_loss_scale(scale, step.finite, rule);
    EXPECT_EQ(scale, step.after) << scale.factor << " " << scale.growth;
  }
}

TEST(LossScaleRule, DefaultsAreThoseOfGradScaler) {
  EXPECT_EQ(LossScale().factor, config::GradScaler().init_scale);
  EXPECT_EQ(LossScale().factor, 65536);
  LossScale scale;
  for (int i = 0; i < 1999; ++i) scale = next_loss_scale(scale, true, {});
  EXPECT_EQ(scale, (LossScale{65536, 1999}));
  EXPECT_EQ(next_loss_scale(scale, true, {}), (LossScale{131072, 0}));
  EXPECT_EQ(next_loss_scale(scale, false, {}), (LossScale{32768, 0}));
}

TEST(LossScaleRule, DoesNotLeaveFloat32) {
  config::GradScaler rule;
  rule.growth_interval = 1;
  const double most = std::ldexp(1.0, 127);
  EXPECT_EQ(next_loss_scale({most, 0}, true, rule), (LossScale{most, 0}));
}

TEST(LossScaleRule, OfTheSumItIsSmallerByAPowerOfTwo) {
  EXPECT_EQ(factor_of_sum({65536, 0}, 0), 65536);
  EXPECT_EQ(factor_of_sum({65536, 0}, 1), 65536);
  EXPECT_EQ(factor_of_sum({65536, 0}, 2), 32768);
  EXPECT_EQ(factor_of_sum({65536, 0}, 3), 16384);
  EXPECT_EQ(factor_of_sum({65536, 0}, 4), 16384);
  EXPECT_EQ(factor_of_sum({65536, 0}, 5), 8192);
}

}  // namespace
}  // namespace furrow::train
