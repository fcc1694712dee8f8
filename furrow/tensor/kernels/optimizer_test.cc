#include "furrow/tensor/kernels/optimizer.h"

#include "furrow/tensor/kernels/test_support.h"

namespace furrow::tensor::kernels {
namespace {

using testing::random_floats;
using testing::same_bits;

struct State {
  std::vector<float> param, grad, first, second;
  explicit State(int64_t n)
      : param(random_floats(n, 1)),
        grad(random_floats(n, 2)),
        first(random_floats(n, 3)),
        second(random_floats(n, 4, 0, 1)) {}
};

Sgd sgd(State& s, size_t from, int64_t n, bool nesterov) {
  return {.n = n,
          .param = s.param.data() + from,
          .grad = s.grad.data() + from,
          .momentum_buffer = s.first.data() + from,
          .grad_scale = 0.25f,
          .lr = 0.1f,
          .momentum = 0.9f,
          .weight_decay = 0.01f,
          .nesterov = nesterov};
}
Adam adam(State& s, size_t from, int64_t n, int64_t step, bool decoupled = true) {
  return {.n = n,
          .param = s.param.data() + from,
          .grad = s.grad.data() + from,
          .exp_avg = s.first.data() + from,
          .exp_avg_sq = s.second.data() + from,
          .grad_scale = 0.5f,
          .lr = 0.003,
          .beta1 = 0.9,
          .beta2 = 0.99,
          .eps = 1e-8,
          .weight_decay = 0.1,
          .decoupled = decoupled,
          .step = step};
}
Lion lion(State& s, size_t from, int64_t n) {
  return {.n = n,
          .param = s.param.data() + from,
          .grad = s.grad.data() + from,
          .exp_avg = s.first.data() + from,
          .grad_scale = 0.5f,
          .lr = 0.003,
          .beta1 = 0.9,
          .beta2 = 0.99,
          .weight_decay = 0.1};
}

TEST(Sgd, EqualsTheFormula) {
  testing::for_each_target([](const char*) {
    for (const bool nesterov : {false, true}) {
      State s(1003);
      const State old = s;
      sgd_step(sgd(s, 0, 1003, nesterov), 1);
      std::vector<double> param, buffer;
      for (size_t i = 0; i < 1003; ++i) {
        const double g = 0.25 * old.grad[i] + static_cast<double>(0.01f) * old.param[i];
        buffer.push_back(static_cast<double>(0.9f) * old.first[i] + g);
        const double move = nesterov ? g + static_cast<double>(0.9f) * buffer[i] : buffer[i];
        param.push_back(old.param[i] - static_cast<double>(0.1f) * move);
      }
      EXPECT_LT(testing::worst_error(s.param, param), 2e-7);
      EXPECT_LT(testing::worst_error(s.first, buffer), 2e-7);
      EXPECT_TRUE(same_bits(s.grad, old.grad));
    }
  });
}

TEST(Sgd, WithoutMomentum) {
  State s(40);
  const State old = s;
  sgd_step({.n = 40, .param = s.param.data(), .grad = s.grad.data(), .lr = 0.5f}, 1);
  for (size_t i = 0; i < 40; ++i) EXPECT_FLOAT_EQ(s.param[i], old.param[i] - 0.5f * old.grad[i]);
}

TEST(Adam, EqualsTheFormula) {
  testing::for_each_target([](const char*) {
    for (const auto& [step, decoupled] : {std::pair{1, true}, {1000, true}, {1, false}, {1000, false}}) {
      State s(517);
      const State old = s;
      adam_step(adam(s, 0, 517, step, decoupled), 1);
      std::vector<double> param, first, second;
      const double t = static_cast<double>(step);
      for (size_t i = 0; i < 517; ++i) {
        const double g = 0.5 * old.grad[i] + (decoupled ? 0 : 0.1 * old.param[i]);
        const double keep = decoupled ? 1 - 0.003 * 0.1 : 1;
        first.push_back(0.9 * old.first[i] + (1 - 0.9) * g);
        second.push_back(0.99 * old.second[i] + (1 - 0.99) * g * g);
        const double scale = std::sqrt(second[i]) / std::sqrt(1 - std::pow(0.99, t)) + 1e-8;
        param.push_back(old.param[i] * keep - 0.003 / (1 - std::pow(0.9, t)) * first[i] / scale);
      }
      EXPECT_LT(testing::worst_error(s.param, param), 3e-7);
      EXPECT_LT(testing::worst_error(s.first, first), 2e-7);
      EXPECT_LT(testing::worst_error(s.second, second), 2e-7);
    }
  });
}

TEST(Lion, EqualsTheFormula) {
  testing::for_each_target([](const char*) {
    State s(517);
    s.grad[7] = s.first[7] = 0;  // no sign, no move
    const State old = s;
    lion_step(lion(s, 0, 517), 1);
    std::vector<double> param, first;
    for (size_t i = 0; i < 517; ++i) {
      const double g = 0.5 * old.grad[i], c = 0.9 * old.first[i] + (1 - 0.9) * g;
      const double sign = c > 0 ? 1 : c < 0 ? -1 : 0;
      param.push_back(old.param[i] * (1 - 0.003 * 0.1) - 0.003 * sign);
      first.push_back(0.99 * old.first[i] + (1 - 0.99) * g);
    }
    EXPECT_LT(testing::worst_error(s.param, param), 2e-7);
    EXPECT_LT(testing::worst_error(s.first, first), 2e-7);
    EXPECT_FLOAT_EQ(s.param[7], old.param[7] * (1 - 0.003f * 0.1f));
  });
}

// Any cut of the buffer, on any number of threads, gives the same bits.
TEST(Optimizers, BitsDoNotDependOnOffsetLengthOrThreads) {
  constexpr int64_t kSize = 100003;
  State whole_sgd(kSize), whole_adam(kSize), whole_lion(kSize);
  sgd_step(sgd(whole_sgd, 0, kSize, true), 1);
  adam_step(adam(whole_adam, 0, kSize, 3), 1);
  lion_step(lion(whole_lion, 0, kSize), 1);
  for (const int threads : {1, 3}) {
    State cut_sgd(kSize), cut_adam(kSize), cut_lion(kSize);
    for (size_t from = 0, length = 1; from < kSize; from += length, length = length * 3 + 2) {
      const int64_t n = static_cast<int64_t>(std::min(length, kSize - from));
      sgd_step(sgd(cut_sgd, from, n, true), threads);
      adam_step(adam(cut_adam, from, n, 3), threads);
      lion_step(lion(cut_lion, from, n), threads);
    }
    EXPECT_TRUE(same_bits(cut_sgd.param, whole_sgd.param) && same_bits(cut_sgd.first, whole_sgd.first));
    EXPECT_TRUE(same_bits(cut_adam.param, whole_adam.param) && same_bits(cut_adam.second, whole_adam.second));
    EXPECT_TRUE(same_bits(cut_lion.param, whole_lion.param) && same_bits(cut_lion.first, whole_lion.first));
  }
  State other(kSize);
  other.grad[77] = -other.grad[77];  // one flipped sign is seen
  sgd_step(sgd(other, 0, kSize, true), 1);
  EXPECT_FALSE(same_bits(other.param, whole_sgd.param));
}

TEST(SumOfSquares, IsTheStatedSumOnTheGrid) {
  const std::vector<float> x = random_floats(5000, 1);
  std::vector<double> want;
  for (size_t b = 0; b < 5000; b += 1024) {
    double lanes[16] = {};
    for (size_t i = b; i < std::min<size_t>(b + 1024, 5000); ++i) {
      lanes[(i - b) % 16] =
          std::fma(static_cast<double>(x[i]), static_cast<double>(x[i]), lanes[(i - b) % 16]);
    }
    for (int half = 8; half > 0; half /= 2) {
      for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
    }
    want.push_back(lanes[0]);
  }
  testing::for_each_target([&](const char*) {
    for (const int threads : {1, 2}) {
      std::vector<double> got(static_cast<size_t>(grid_blocks(5000)));
      sum_of_squares(5000, x.data(), got.data(), threads);
      EXPECT_TRUE(same_bits(got, want));  // squares of floats are exact in double: FMA or not is the same
    }
  });
}

TEST(SumOfSquares, TellsNonFiniteElementsAndSurvivesHugeOnes) {
  std::vector<float> x(3000, 3e38f);
  std::vector<double> sums(3);
  sum_of_squares(3000, x.data(), sums.data(), 1);
  EXPECT_TRUE(std::isfinite(sums[0]) && std::isfinite(sums[2]));
  x[1500] = INFINITY;
  x[2999] = NAN;
  sum_of_squares(3000, x.data(), sums.data(), 1);
  EXPECT_TRUE(std::isfinite(sums[0]));
  EXPECT_FALSE(std::isfinite(sums[1]));
  EXPECT_TRUE(std::isnan(sums[2]));
}

}  // namespace
}  // namespace furrow::tensor::kernels
