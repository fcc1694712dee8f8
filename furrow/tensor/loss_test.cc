#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

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
