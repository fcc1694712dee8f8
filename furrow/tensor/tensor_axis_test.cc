#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/composition_torch.h"
#include "furrow/tensor/loss_torch.h"
#include "furrow/tensor/tensor_axis_torch.h"
#include "furrow/tensor/test_axis_torch.h"
#include "furrow/tensor/test_support_torch.h"

namespace furrow::tensor {
namespace {

using testing::bitwise_equal;
using testing::random_tensor;
using testing::run_ranks;
using testing::ThreadAxis;

TEST(TensorAxis, PartsLieInRankOrderAlongTheDim) {
  for (const int ranks : {2, 3}) {
    const at::Tensor whole = at::arange(2.0 * 6 * 5, at::kFloat).view({2, 6, 5});
    run_ranks(ranks, [&](ThreadAxis& axis) {
      const at::Tensor own = whole.narrow(1, axis.rank() * (6 / ranks), 6 / ranks);
      EXPECT_TRUE(at::equal(axis.all_gather(own, 1), whole));
      EXPECT_TRUE(at::equal(axis.reduce_scatter(whole, 1), own * ranks));
      EXPECT_TRUE(at::equal(axis.all_reduce(whole.clone()), whole * ranks));
      const at::Tensor largest = axis.all_reduce(whole + axis.rank(), AxisCollective::Reduction::kMax);
      EXPECT_TRUE(at::equal(largest, whole + (ranks - 1)));
    });
  }
}

TEST(TensorAxis, OneRankGivesBackItsArgument) {
  run_ranks(1, [](ThreadAxis& axis) {
    const at::Tensor x = random_tensor({2, 4}, 1);
    EXPECT_TRUE(axis.all_gather(x, 1).is_same(x));
    EXPECT_TRUE(axis.reduce_scatter(x, 1).is_same(x));
    EXPECT_TRUE(axis.all_reduce(x).is_same(x));
  });
}

struct Loss {
  double sum = 0;
  int64_t rows = 0, correct = 0;
  at::Tensor gradient;
};

Loss whole_loss(const at::Tensor& logits, const at::Tensor& targets, const ClassTerms& terms) {
  Loss loss;
  const CrossEntropySums sums = cross_entropy(logits, targets, &loss.gradient, 1, terms);
  return {sums.loss.value(), sums.rows, sums.correct, loss.gradient};
}

// Rank r has columns [r * part, ...), what is behind the last class is filled with what would win.
Loss cut_loss(const at::Tensor& logits, const at::Tensor& targets, const ClassTerms& terms, int ranks,
              bool composes = false) {
  const int64_t classes = logits.size(-1), part = (classes + ranks - 1) / ranks;
  const at::Tensor padded = at::constant_pad_nd(logits, {0, part * ranks - classes}, 1e9);
  std::vector<Loss> losses(static_cast<size_t>(ranks));
  run_ranks(ranks, [&](ThreadAxis& axis) {
    const CompositionScope scope(composes);
    Loss& own = losses[static_cast<size_t>(axis.rank())];
    const at::Tensor mine = padded.narrow(-1, axis.rank() * part, part).contiguous();
    const CrossEntropySums sums =
        cross_entropy(mine, targets, &own.gradient, CutClasses{&axis, classes, terms}, 1);
    own = {sums.loss.value(), sums.rows, sums.correct, own.gradient};
  });
  std::vector<at::Tensor> gradients;
  for (const Loss& loss : losses) {
    EXPECT_EQ(loss.sum, losses[0].sum);
    EXPECT_EQ(loss.rows, losses[0].rows);
    EXPECT_EQ(loss.correct, losses[0].correct);
    gradients.push_back(loss.gradient);
  }
  const at::Tensor all = at::cat(gradients, -1);
  EXPECT_EQ(all.narrow(-1, classes, part * ranks - classes).count_nonzero().item<int64_t>(), 0);
  Loss loss = losses[0];
  loss.gradient = all.narrow(-1, 0, classes);
  return loss;
}

TEST(CrossEntropyOfCutClasses, IsThatOfTheWhole) {
  const at::Tensor numbers = random_tensor({7, 5, 17}, 1, 3);
  at::Tensor targets = at::arange(35, at::kLong).remainder(17).view({7, 5}).clone();
  targets[1][2] = targets[6][4] = kIgnoredTarget;
  std::vector<float> weights;
  for (int c = 0; c < 17; ++c) weights.push_back(static_cast<float>(c % 5) * 0.75f);
  for (const auto& [type, terms] : {std::pair(at::kFloat, ClassTerms{}),
                                    {at::kFloat, {0.1}},
                                    {at::kFloat, {0, weights}},
                                    {at::kFloat, {0.1, weights}},
                                    {at::kBFloat16, {}}}) {
    const at::Tensor logits = numbers.to(type);
    const Loss whole = whole_loss(logits, targets, terms);
    for (const int ranks : {2, 3, 4, 8}) {  // of eight the last has no class
      for (const bool composes : {false, true}) {
        const Loss cut = cut_loss(logits, targets, terms, ranks, composes);
        EXPECT_NEAR(cut.sum, whole.sum, 1e-6 * whole.sum);
        EXPECT_EQ(cut.rows, 33);
        EXPECT_EQ(cut.correct, whole.correct);
        EXPECT_EQ(cut.gradient.scalar_type(), at::kFloat);
        EXPECT_LT(testing::distance(cut.gradient, whole.gradient), 4e-7);
      }
    }
  }
  Loss other = whole_loss(numbers.roll(1, -1), targets, {});  // control: classes that are one off
  EXPECT_GT(std::abs(cut_loss(numbers, targets, {}, 2).sum - other.sum), 1e-3 * other.sum);
}

// Of equal logits the first is what the row says, on whichever rank it lies.
TEST(CrossEntropyOfCutClasses, TheFirstOfEqualsIsTheAnswer) {
  const at::Tensor logits = at::zeros({1, 6});
  for (const bool composes : {false, true}) {
    logits.zero_();
    for (int64_t target = 0; target < 6; ++target) {
      const at::Tensor targets = at::full({1}, target, at::kLong);
      EXPECT_EQ(cut_loss(logits, targets, {}, 3, composes).correct, target == 0);
    }
    logits[0][3] = logits[0][5] = 2;
    EXPECT_EQ(cut_loss(logits, at::full({1}, 3, at::kLong), {}, 2, composes).correct, 1);
    EXPECT_EQ(cut_loss(logits, at::full({1}, 5, at::kLong), {}, 2, composes).correct, 0);
  }
}

// Whatever an ignored row is, it adds nothing.
TEST(CrossEntropyOfCutClasses, IgnoredRowsMayBeAnything) {
  const at::Tensor logits = random_tensor({3, 6}, 1), targets = at::tensor({2, -100, 5}, at::kLong);
  const double expected = whole_loss(logits, targets, {0.1}).sum;
  logits[1].fill_(std::numeric_limits<float>::quiet_NaN());
  for (const bool composes : {false, true}) {
    const Loss cut = cut_loss(logits, targets, {0.1}, 2, composes);
    EXPECT_NEAR(cut.sum, expected, 1e-6);
    EXPECT_EQ(cut.gradient[1].abs().sum().item<float>(), 0);
  }
}

TEST(CrossEntropyOfCutClasses, NamesATargetOutside) {
  const at::Tensor logits = at::zeros({2, 5}), targets = at::full({2}, 5, at::kLong);
  EXPECT_THROW(cut_loss(logits, targets, {}, 2), Error);
}

}  // namespace
}  // namespace furrow::tensor
