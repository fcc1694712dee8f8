#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <string>

#include "furrow/base/error.h"
#include "furrow/config/training.h"
#include "furrow/train/objective_torch.h"

namespace furrow::train {
namespace {

config::Training training(const std::string& dataset, const std::string& loss) {
  config::Training training;
  training.dataset = dataset;
  training.loss = loss;
  return training;
}

TEST(Objective, FollowsLossAndData) {
  EXPECT_EQ(make_objective(training("idx", "cross_entropy"), false).name, "supervised");
  EXPECT_EQ(make_objective(training("text", "cross_entropy"), true).name, "language_modelling");
  EXPECT_EQ(make_objective(training("idx", "mse"), false).name, "regression");
  EXPECT_EQ(make_objective(training("idx", "binary"), false).name, "binary");
  EXPECT_THROW(find_objective("supervsed"), Error);
}

TEST(Objective, SmoothsWhatIsTrainedOnAndMeasuresThePlainLoss) {
  config::Training smooth = training("idx", "cross_entropy");
  smooth.label_smoothing = 0.2;
  const Objective smoothed = make_objective(smooth, false), &plain = find_objective("supervised");
  const at::Tensor output = at::arange(30, at::kFloat).sin().view({6, 5}),
                   target = at::arange(6, at::kLong) % 5;
  at::Tensor gradient, plain_gradient;
  const double trained = smoothed.loss(output, target, &gradient, 1).mean();
  const double measured = smoothed.loss(output, target, nullptr, 1).mean();
  EXPECT_EQ(measured, plain.loss(output, target, &plain_gradient, 1).mean());
  EXPECT_NE(trained, measured);
  EXPECT_GT((gradient - plain_gradient).abs().max().item<double>(), 0.1);
}

TEST(Objective, CountsValuesOfRegressionAndBinary) {
  const at::Tensor output = at::tensor({1.0f, -2.0f, 0.5f}).view({3, 1});
  const LossSums numbers =
      make_objective(training("idx", "mse"), false).loss(output, at::tensor({0.0f, -2.0f, 1.0f}), nullptr, 1);
  EXPECT_EQ(numbers.count, 3);
  EXPECT_DOUBLE_EQ(numbers.mean(), 1.25 / 3);
  const LossSums binary =
      make_objective(training("idx", "binary"), false).loss(output, at::tensor({1, 0, 0}), nullptr, 1);
  EXPECT_EQ(binary.count, 3);
  EXPECT_EQ(binary.correct, 2);
}

}  // namespace
}  // namespace furrow::train
