#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/config/config.h"
#include "furrow/train/objective_torch.h"

namespace furrow::train {
namespace {

config::Config training(const std::string& loss) {
  config::Config config;
  config.training.loss = loss;
  return config;
}

TEST(Objective, FollowsLossAndData) {
  EXPECT_EQ(make_objective(training("cross_entropy"), false).name, "supervised");
  EXPECT_EQ(make_objective(training("cross_entropy"), true).name, "language_modelling");
  EXPECT_EQ(make_objective(training("mse"), false).name, "regression");
  EXPECT_EQ(make_objective(training("binary"), false).name, "binary");
  EXPECT_THROW(find_objective("supervsed"), Error);
}

TEST(Objective, SmoothsWhatIsTrainedOnAndMeasuresThePlainLoss) {
  config::Config smooth = training("cross_entropy");
  smooth.training.label_smoothing = 0.2;
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

// The mean of PyTorch's CrossEntropyLoss(weight), and of BCEWithLogitsLoss(pos_weight).
TEST(Objective, DividesByTheSumOfWeights) {
  const std::vector<float> weights = {0.5, 0, 3, 1, 2};
  const Objective weighted = make_objective(training("cross_entropy"), false, weights);
  const at::Tensor output = at::arange(30, at::kFloat).sin().view({6, 5}),
                   target = at::arange(6, at::kLong) % 5;
  const LossSums sums = weighted.loss(output, target, nullptr, 1);
  const double mean =
      at::cross_entropy_loss(output.to(at::kDouble), target, at::tensor(weights, at::kDouble)).item<double>();
  EXPECT_NEAR(sums.mean(), mean, 1e-6);
  EXPECT_EQ(sums.divisor(), 7.0);
  EXPECT_EQ(sums.count, 6);
  EXPECT_EQ(LossSums().mean(), 0) << "nothing weighs anything";
  config::Config positive = training("binary");
  positive.training.pos_weight = 4;
  const at::Tensor logits = at::tensor({1.0f, -2.0f, 0.5f}).view({3, 1}),
                   labels = at::tensor({1.0f, 0.0f, 1.0f});
  const double binary =
      at::binary_cross_entropy_with_logits(logits.view(-1).to(at::kDouble), labels.to(at::kDouble), {},
                                           at::full({1}, 4.0, at::kDouble))
          .item<double>();
  EXPECT_NEAR(make_objective(positive, false).loss(logits, labels, nullptr, 1).mean(), binary, 1e-6);
}

TEST(Objective, CountsValuesOfRegressionAndBinary) {
  const at::Tensor output = at::tensor({1.0f, -2.0f, 0.5f}).view({3, 1});
  const LossSums numbers =
      make_objective(training("mse"), false).loss(output, at::tensor({0.0f, -2.0f, 1.0f}), nullptr, 1);
  EXPECT_EQ(numbers.count, 3);
  EXPECT_DOUBLE_EQ(numbers.mean(), 1.25 / 3);
  const LossSums binary =
      make_objective(training("binary"), false).loss(output, at::tensor({1, 0, 0}), nullptr, 1);
  EXPECT_EQ(binary.count, 3);
  EXPECT_EQ(binary.correct, 2);
}

// Hinton's loss in double, through autograd.
at::Tensor distilled(const at::Tensor& output, const at::Tensor& teacher, const at::Tensor& target, double t,
                     double alpha) {
  const at::Tensor wanted = at::softmax(teacher.to(at::kDouble) / t, -1);
  const at::Tensor ours = at::log_softmax(output / t, -1);
  const at::Tensor divergence =
      (wanted * (wanted.log() - ours)).sum(-1).masked_fill(target.eq(-100), 0).sum();
  const at::Tensor plain = at::cross_entropy_loss(output.reshape({-1, output.size(-1)}), target.reshape({-1}),
                                                  {}, at::Reduction::Sum);
  return alpha * t * t * divergence + (1 - alpha) * plain;
}

TEST(Objective, DistillationIsHintonsLoss) {
  config::Config config = training("cross_entropy");
  config.training.objective = "distillation";
  const at::Tensor output = (3 * at::arange(60, at::kFloat).sin()).view({3, 4, 5});
  const at::Tensor teacher = (4 * at::arange(60, at::kFloat).cos()).view({3, 4, 5});
  at::Tensor target = (at::arange(12, at::kLong) % 5).view({3, 4});
  target[1][2] = -100;
  for (const double t : {1.0, 2.0, 5.0}) {
    for (const double alpha : {0.0, 0.3, 1.0}) {
      config.distillation.temperature = t;
      config.distillation.alpha = alpha;
      const Objective objective = make_objective(config, false);
      at::Tensor gradient;
      const LossSums sums = objective.loss({output, target, teacher}, &gradient, 1);
      const at::Tensor leaf = output.to(at::kDouble).set_requires_grad(true);
      const at::Tensor expected = distilled(leaf, teacher, target, t, alpha);
      expected.backward();
      EXPECT_EQ(sums.count, 11);
      EXPECT_NEAR(sums.loss.value(), expected.item<double>(), 1e-5 * expected.item<double>());
      EXPECT_LT((gradient.to(at::kDouble) - leaf.grad()).abs().max().item<double>(), 1e-6);
      const double wrong = distilled(leaf, teacher, target, t + 0.1, alpha).item<double>();
      EXPECT_EQ(std::abs(sums.loss.value() - wrong) > 1e-5 * wrong, alpha > 0) << "control";
    }
  }
  EXPECT_EQ(
      make_objective(config, false).loss(output.reshape({12, 5}), target.reshape({12}), nullptr, 1).mean(),
      find_objective("supervised").loss(output.reshape({12, 5}), target.reshape({12}), nullptr, 1).mean());
}

}  // namespace
}  // namespace furrow::train
