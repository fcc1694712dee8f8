#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <span>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/tensor/loss_torch.h"
#include "furrow/tensor/test_support_torch.h"

namespace furrow::tensor {
namespace {

using testing::random_tensor;

struct Plain {
  at::Tensor losses, gradient;
};

Plain plain(const at::Tensor& logits, const at::Tensor& targets, at::ScalarType type) {
  const at::Tensor x = logits.to(type).view({-1, logits.size(-1)}).requires_grad_(true);
  const at::Tensor losses = at::cross_entropy_loss(x, targets.view(-1), {}, at::Reduction::None);
  losses.sum().backward();
  return {losses.detach(), x.grad().view(logits.sizes())};
}

TEST(CrossEntropy, MatchesPlainAutograd) {
  for (const double scale : {0.1, 1.0, 30.0}) {
    for (const int64_t classes : {1, 2, 10, 65, 1000}) {
      const at::Tensor logits = random_tensor({4, 9, classes}, 1, scale);
      const at::Tensor targets = at::randint(0, classes, {4, 9}, at::TensorOptions().dtype(at::kLong));
      at::Tensor gradient;
      const CrossEntropySums sums = cross_entropy(logits, targets, &gradient, 2);
      const Plain plain32 = plain(logits, targets, at::kFloat), plain64 = plain(logits, targets, at::kDouble);
      EXPECT_TRUE(testing::within_bound(gradient, plain32.gradient, plain64.gradient))
          << classes << " " << scale;
      EXPECT_TRUE(testing::within_bound(at::scalar_tensor(sums.loss.value(), at::kDouble),
                                        plain32.losses.sum(), plain64.losses.sum()));
      EXPECT_EQ(sums.rows, 36);
      EXPECT_EQ(sums.correct, logits.argmax(-1).eq(targets).sum().item<int64_t>());
      if (classes == 1) continue;  // the gradient is zero whatever the logits
      at::Tensor wrong = gradient.clone();
      wrong.view(-1)[wrong.abs().argmax().item<int64_t>()] *= 1 + 0x1p-14;
      EXPECT_FALSE(testing::within_bound(wrong, plain32.gradient, plain64.gradient)) << "control";
    }
  }
}

TEST(CrossEntropy, SmoothedTargetsMatchPlainAutograd) {
  const at::Tensor targets = at::randint(0, 37, {40}, at::TensorOptions().dtype(at::kLong));
  const at::Tensor logits = random_tensor({40, 37}, 1, 3);
  for (const double smoothing : {0.1, 0.5}) {
    at::Tensor gradient;
    const CrossEntropySums sums = cross_entropy(logits, targets, &gradient, 2, {smoothing});
    const auto reference = [&](at::ScalarType type) {
      const at::Tensor x = logits.to(type).clone().requires_grad_(true);
      const at::Tensor loss = at::cross_entropy_loss(x, targets, {}, at::Reduction::Sum, -100, smoothing);
      loss.backward();
      return Plain{loss.detach(), x.grad()};
    };
    const Plain plain32 = reference(at::kFloat), plain64 = reference(at::kDouble);
    EXPECT_TRUE(testing::within_bound(gradient, plain32.gradient, plain64.gradient));
    EXPECT_TRUE(testing::within_bound(at::scalar_tensor(sums.loss.value(), at::kDouble), plain32.losses,
                                      plain64.losses));
    at::Tensor other;  // control: smoothing matters
    cross_entropy(logits, targets, &other, 2, {smoothing + 0.001});
    EXPECT_FALSE(testing::within_bound(other, plain32.gradient, plain64.gradient));
  }
}

TEST(CrossEntropy, WeightedClassesMatchPlainAutograd) {
  at::Tensor targets = at::randint(0, 37, {40}, at::TensorOptions().dtype(at::kLong));
  targets[3] = kIgnoredTarget;
  const at::Tensor logits = random_tensor({40, 37}, 1, 3), weights = random_tensor({37}, 2).abs();
  const std::span<const float> each(weights.const_data_ptr<float>(), 37);
  for (const double smoothing : {0.0, 0.1}) {
    at::Tensor gradient;
    const CrossEntropySums sums = cross_entropy(logits, targets, &gradient, 2, {smoothing, each});
    const auto reference = [&](at::ScalarType type, at::Reduction::Reduction reduction) {
      const at::Tensor x = logits.to(type).clone().requires_grad_(true);
      const at::Tensor loss =
          at::cross_entropy_loss(x, targets, weights.to(type), reduction, kIgnoredTarget, smoothing);
      loss.backward();
      return Plain{loss.detach(), x.grad()};
    };
    const Plain plain32 = reference(at::kFloat, at::Reduction::Sum),
                plain64 = reference(at::kDouble, at::Reduction::Sum),
                mean = reference(at::kDouble, at::Reduction::Mean);
    EXPECT_TRUE(testing::within_bound(gradient, plain32.gradient, plain64.gradient));
    EXPECT_TRUE(testing::within_bound(at::scalar_tensor(sums.loss.value(), at::kDouble), plain32.losses,
                                      plain64.losses));
    const double divided = sums.loss.value() / sums.weight.value();
    EXPECT_NEAR(divided, mean.losses.item<double>(), 1e-6 * divided) << "PyTorch's mean";
    EXPECT_EQ(sums.rows, 39);
    at::Tensor other;  // control: weights matter
    cross_entropy(logits, targets, &other, 2, {smoothing});
    EXPECT_FALSE(testing::within_bound(other, plain32.gradient, plain64.gradient));
  }
}

TEST(PointwiseLosses, BinaryWeighsLikePyTorch) {
  const at::Tensor output = random_tensor({300}, 1, 5),
                   labels = random_tensor({300}, 2).gt(0.4).to(at::kFloat);
  for (const BinaryTerms& terms :
       {BinaryTerms{1, 1, 3.5}, BinaryTerms{0.25, 2, 1}, BinaryTerms{0.25, 2, 3.5}}) {
    at::Tensor gradient;
    const PointwiseSums sums = binary_cross_entropy(output, labels, &gradient, 2, terms);
    const auto reference = [&](at::ScalarType type) {
      const at::Tensor x = output.to(type).clone().requires_grad_(true), t = labels.to(type);
      const at::Tensor weight = t * terms.second + (1 - t) * terms.first;
      const at::Tensor loss = at::binary_cross_entropy_with_logits(
          x, t, weight, at::full({1}, terms.pos_weight, x.options().requires_grad(false)),
          at::Reduction::Sum);
      loss.backward();
      return std::pair(Plain{loss.detach(), x.grad()}, weight.sum());
    };
    const auto [plain32, weight32] = reference(at::kFloat);
    const auto [plain64, weight64] = reference(at::kDouble);
    EXPECT_TRUE(testing::within_bound(gradient, plain32.gradient, plain64.gradient));
    EXPECT_TRUE(testing::within_bound(at::scalar_tensor(sums.loss.value(), at::kDouble), plain32.losses,
                                      plain64.losses));
    EXPECT_DOUBLE_EQ(sums.weight.value(), weight64.item<double>());
    EXPECT_EQ(sums.values, 300);
    binary_cross_entropy(output, labels, &gradient, 2);  // control
    EXPECT_FALSE(testing::within_bound(gradient, plain32.gradient, plain64.gradient));
  }
}

TEST(CrossEntropy, IgnoredTargetsHaveNoPart) {
  const at::Tensor logits = random_tensor({40, 37}, 3, 4.0);
  at::Tensor targets = at::randint(0, 37, {40}, at::TensorOptions().dtype(at::kLong));
  const at::Tensor counted = at::arange(40).remainder(3).ne(0);
  targets.masked_fill_(counted.logical_not(), kIgnoredTarget);
  at::Tensor gradient, rest;
  const CrossEntropySums sums = cross_entropy(logits, targets, &gradient, 2, {0.1});
  const CrossEntropySums only =
      cross_entropy(logits.index({counted}), targets.index({counted}), &rest, 2, {0.1});
  EXPECT_EQ(sums.rows, 26);
  EXPECT_EQ(sums.correct, only.correct);
  EXPECT_EQ(sums.loss.value(), only.loss.value());
  EXPECT_TRUE(at::equal(gradient.index({counted}), rest));
  EXPECT_TRUE(gradient.index({counted.logical_not()}).eq(0).all().item<bool>());
  targets[5] = -1;
  EXPECT_THROW(cross_entropy(logits, targets, &gradient, 2), Error);
}

TEST(PointwiseLosses, MatchPlainAutograd) {
  const at::Tensor output = random_tensor({300, 1}, 1, 5), numbers = random_tensor({300}, 2);
  const at::Tensor labels = numbers.gt(0).to(at::kLong);
  for (const bool binary : {false, true}) {
    at::Tensor gradient;
    const PointwiseSums sums = binary ? binary_cross_entropy(output, labels, &gradient, 2)
                                      : squared_error(output, numbers, &gradient, 2);
    const auto reference = [&](at::ScalarType type) {
      const at::Tensor x = output.to(type).clone().requires_grad_(true);
      const at::Tensor loss = binary ? at::binary_cross_entropy_with_logits(x.view(-1), labels.to(type), {},
                                                                            {}, at::Reduction::Sum)
                                     : at::mse_loss(x.view(-1), numbers.to(type), at::Reduction::Sum);
      loss.backward();
      return Plain{loss.detach(), x.grad()};
    };
    const Plain plain32 = reference(at::kFloat), plain64 = reference(at::kDouble);
    EXPECT_TRUE(testing::within_bound(gradient, plain32.gradient, plain64.gradient));
    EXPECT_TRUE(testing::within_bound(at::scalar_tensor(sums.loss.value(), at::kDouble), plain32.losses,
                                      plain64.losses));
    EXPECT_EQ(sums.values, 300);
    EXPECT_EQ(sums.correct, binary ? output.view(-1).gt(0).eq(labels).sum().item<int64_t>() : 0);
    EXPECT_EQ(gradient.sizes(), output.sizes());
    at::Tensor wrong = gradient.clone();
    wrong.view(-1)[wrong.abs().argmax().item<int64_t>()] *= 1 + 0x1p-14;
    EXPECT_FALSE(testing::within_bound(wrong, plain32.gradient, plain64.gradient)) << "control";
  }
}

TEST(PointwiseLosses, RefuseTargetsThatDoNotFit) {
  const at::Tensor output = random_tensor({4, 3}, 1);
  for (const auto& targets : {at::zeros({4}), at::full({4, 3}, 2.0f)}) {
    try {
      if (targets.dim() == 1) squared_error(output, targets, nullptr, 1);
      binary_cross_entropy(output, targets, nullptr, 1);
      FAIL() << "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      EXPECT_NE(error.message().find(targets.dim() == 1 ? "12 values for 4 targets" : "target 2 of value 0"),
                std::string::npos)
          << error.message();
    }
  }
}

TEST(CrossEntropy, SumsOfPartsAreTheSumOfTheWhole) {
  const at::Tensor logits = random_tensor({37, 10}, 1, 3);
  const at::Tensor targets = at::randint(0, 10, {37}, at::TensorOptions().dtype(at::kLong));
  const CrossEntropySums whole = cross_entropy(logits, targets, nullptr, 1);
  CrossEntropySums first = cross_entropy(logits.narrow(0, 0, 5), targets.narrow(0, 0, 5), nullptr, 1);
  const CrossEntropySums second =
      cross_entropy(logits.narrow(0, 5, 32), targets.narrow(0, 5, 32), nullptr, 2);
  first.loss.add(second.loss);
  EXPECT_EQ(first.loss.value(), whole.loss.value());
  EXPECT_EQ(first.correct + second.correct, whole.correct);
}

TEST(CrossEntropy, NamesATargetOutsideTheClasses) {
  const at::Tensor logits = random_tensor({3, 10}, 1);
  for (const int64_t bad : {-1, 10}) {
    const at::Tensor targets = at::tensor({int64_t{0}, bad, int64_t{3}}, at::kLong);
    try {
      cross_entropy(logits, targets, nullptr, 1);
      FAIL() << "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      EXPECT_NE(error.message().find("of row 1"), std::string::npos) << error.message();
    }
  }
}

TEST(CrossEntropy, KeepsNonFiniteLossesVisible) {
  at::Tensor logits = random_tensor({3, 10}, 1);
  logits[1][4] = NAN;
  const at::Tensor targets = at::zeros({3}, at::kLong);
  EXPECT_TRUE(std::isnan(cross_entropy(logits, targets, nullptr, 1).loss.value()));
}

}  // namespace
}  // namespace furrow::tensor
