#include "furrow/tensor/kernels/cross_entropy.h"

#include <cmath>
#include <tuple>

#include "furrow/tensor/kernels/test_support.h"

namespace furrow::tensor::kernels {
namespace {

using testing::random_floats;
using testing::same_bits;

struct Case {
  int64_t rows, columns;
  std::vector<float> logits;
  std::vector<int64_t> targets;
  Case(int64_t rows, int64_t columns)
      : rows(rows), columns(columns), logits(random_floats(rows * columns, 1, -8, 8)) {
    for (int64_t i = 0; i < rows; ++i) targets.push_back(i * 7 % columns);
  }
};

struct Result {
  std::vector<float> losses, gradient;
  CrossEntropyCounts counts;
};

Result run(const Case& c, int threads) {
  Result r{std::vector<float>(static_cast<size_t>(c.rows)), std::vector<float>(c.logits.size()), {}};
  r.counts = cross_entropy(
      {c.rows, c.columns, c.logits.data(), c.targets.data(), r.losses.data(), r.gradient.data()}, threads);
  return r;
}

TEST(CrossEntropy, EqualsTheFormula) {
  for (const auto& [rows, columns] : {std::pair{64, 10}, {33, 65}, {5, 1}, {3, 1000}, {7, 16}}) {
    const Case c(rows, columns);
    std::vector<double> losses, gradient;
    int64_t correct = 0;
    for (int64_t i = 0; i < rows; ++i) {
      const float* l = c.logits.data() + i * columns;
      const int64_t target = c.targets[static_cast<size_t>(i)];
      double sum = 0;
      for (int64_t j = 0; j < columns; ++j) sum += std::exp(static_cast<double>(l[j]));
      losses.push_back(std::log(sum) - static_cast<double>(l[target]));
      for (int64_t j = 0; j < columns; ++j)
        gradient.push_back(std::exp(static_cast<double>(l[j])) / sum - (j == target));
      correct += std::max_element(l, l + columns) - l == target;
    }
    testing::for_each_target([&](const char*) {
      const Result got = run(c, 2);
      EXPECT_LT(testing::worst_error(got.losses, losses), 3e-7);
      EXPECT_LT(testing::worst_error(got.gradient, gradient), 3e-7);
      EXPECT_EQ(got.counts.counted, rows);
      EXPECT_EQ(got.counts.correct, correct);
    });
  }
}

// -(1 - s) w_y q_y - s / n sum_c w_c q_c and its gradient, over every instruction set.
TEST(CrossEntropy, WeighsTheTermsOfClasses) {
  for (const auto& [rows, columns, smoothing] :
       {std::tuple{64, 10, 0.0}, {33, 65, 0.25}, {5, 1, 0.0}, {7, 17, 0.1}}) {
    const Case c(rows, columns);
    std::vector<float> weights = random_floats(columns, 5, 0, 3);
    if (columns > 2) weights[1] = 0;
    std::vector<double> losses, gradient;
    for (int64_t i = 0; i < rows; ++i) {
      const float* l = c.logits.data() + i * columns;
      const auto target = static_cast<size_t>(c.targets[static_cast<size_t>(i)]);
      double sum = 0, all = 0, loss = 0;
      for (int64_t j = 0; j < columns; ++j) sum += std::exp(static_cast<double>(l[j]));
      std::vector<double> terms;
      for (int64_t j = 0; j < columns; ++j) {
        const double own = static_cast<size_t>(j) == target ? (1 - smoothing) : 0;
        terms.push_back(own * weights[static_cast<size_t>(j)] +
                        smoothing / static_cast<double>(columns) * weights[static_cast<size_t>(j)]);
        all += terms.back();
        loss += terms.back() * (std::log(sum) - static_cast<double>(l[j]));
      }
      losses.push_back(loss);
      for (int64_t j = 0; j < columns; ++j)
        gradient.push_back(all * std::exp(static_cast<double>(l[j])) / sum - terms[static_cast<size_t>(j)]);
    }
    testing::for_each_target([&](const char*) {
      std::vector<float> got(static_cast<size_t>(rows)), slope(c.logits.size());
      CrossEntropy args{rows, columns, c.logits.data(), c.targets.data(), got.data(), slope.data()};
      args.smoothing = static_cast<float>(smoothing);
      args.weights = weights.data();
      cross_entropy(args, 2);
      EXPECT_LT(testing::worst_error(got, losses), 6e-7);
      EXPECT_LT(testing::worst_error(slope, gradient), 1e-6);
      const std::vector<float> even(static_cast<size_t>(columns), 1.0f);
      args.weights = even.data();  // control, and weights of 1 are none
      cross_entropy(args, 2);
      if (columns > 2) EXPECT_GT(testing::worst_error(got, losses), 1e-2);
    });
  }
}

TEST(CrossEntropy, BitsDoNotDependOnThreadsOrAliasing) {
  const Case c(2000, 65);
  const Result one = run(c, 1);
  std::vector<float> alias = c.logits, losses(one.losses.size());
  cross_entropy({c.rows, c.columns, alias.data(), c.targets.data(), losses.data(), alias.data()}, 3);
  EXPECT_TRUE(same_bits(alias, one.gradient) && same_bits(losses, one.losses));
  Case other = c;
  other.targets[1999] = 0;  // a swapped label is seen
  EXPECT_FALSE(same_bits(run(other, 1).losses, one.losses));
}

TEST(CrossEntropy, IgnoresNegativeTargets) {
  Case c(4, 10);
  c.targets[2] = -100;
  const Result r = run(c, 1);
  EXPECT_EQ(r.counts.counted, 3);
  EXPECT_EQ(r.losses[2], 0);
  for (size_t j = 20; j < 30; ++j) EXPECT_EQ(r.gradient[j], 0);
  EXPECT_NE(r.gradient[30], 0);
}

TEST(CrossEntropy, LargeLogitsAndNaN) {
  Case c(3, 2);
  c.logits = {1e4f, 0, -1e4f, 0, NAN, 1};
  c.targets = {0, 0, 1};
  const Result r = run(c, 1);
  EXPECT_EQ(r.losses[0], 0);
  EXPECT_EQ(r.losses[1], 1e4f);
  EXPECT_TRUE(std::isnan(r.losses[2]) && std::isnan(r.gradient[5]));
  EXPECT_EQ(r.counts.correct, 1 + (r.counts.correct > 1));
}

TEST(CrossEntropy, TheFirstMaximumIsTheAnswer) {
  Case c(2, 3);
  c.logits = {1, 1, 0, 1, 1, 0};
  c.targets = {0, 1};
  EXPECT_EQ(run(c, 1).counts.correct, 1);
}

// In double, each row by itself.
TEST(Distillation, EqualsTheFormula) {
  for (const auto& [rows, columns] : {std::pair{64, 10}, {33, 65}, {5, 1}, {3, 1000}, {7, 16}}) {
    Case c(rows, columns);
    c.targets[1] = -100;
    const std::vector<float> teacher = random_floats(rows * columns, 2, -6, 6);
    const double t = 3, alpha = 0.7;
    std::vector<double> losses, gradient;
    const auto softmax = [n = columns](const float* l, double over) {
      std::vector<double> p;
      double sum = 0;
      for (int64_t j = 0; j < n; ++j) sum += p.emplace_back(std::exp(static_cast<double>(l[j]) / over));
      for (double& each : p) each /= sum;
      return p;
    };
    for (int64_t i = 0; i < rows; ++i) {
      const float* l = c.logits.data() + i * columns;
      const std::vector<double> hard = softmax(l, 1), ours = softmax(l, t),
                                theirs = softmax(teacher.data() + i * columns, t);
      const int64_t target = c.targets[static_cast<size_t>(i)];
      double kl = 0;
      for (size_t j = 0; j < hard.size(); ++j) {
        kl += theirs[j] * std::log(theirs[j] / ours[j]);
        const double plain = hard[j] - (static_cast<int64_t>(j) == target);
        gradient.push_back(target < 0 ? 0 : (1 - alpha) * plain + alpha * t * (ours[j] - theirs[j]));
      }
      losses.push_back(
          target < 0 ? 0 : alpha * t * t * kl - (1 - alpha) * std::log(hard[static_cast<size_t>(target)]));
    }
    testing::for_each_target([&](const char*) {
      Result r{std::vector<float>(static_cast<size_t>(rows)), std::vector<float>(c.logits.size()), {}};
      const CrossEntropy plain{
          rows, columns, c.logits.data(), c.targets.data(), r.losses.data(), r.gradient.data()};
      r.counts = distillation({plain, teacher.data(), static_cast<float>(t), static_cast<float>(alpha)}, 2);
      EXPECT_LT(testing::worst_error(r.losses, losses), 1e-6);
      EXPECT_LT(testing::worst_error(r.gradient, gradient), 1e-6);
      EXPECT_EQ(r.counts.counted, rows - 1);
    });
  }
}

}  // namespace
}  // namespace furrow::tensor::kernels
