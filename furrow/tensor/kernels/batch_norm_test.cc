#include "furrow/tensor/kernels/batch_norm.h"

#include "furrow/tensor/kernels/test_support.h"

namespace furrow::tensor::kernels {
namespace {

using testing::narrowed;
using testing::random_floats;
using testing::same_bits;
using testing::widened;

struct Case {
  int64_t rows, channels;
  bool relu, residual;
  std::vector<float> x, past, gamma, beta, dy;
  Case(int64_t rows, int64_t channels, bool relu, bool residual)
      : rows(rows),
        channels(channels),
        relu(relu),
        residual(residual),
        x(random_floats(rows * channels, 1, -3, 5)),
        past(random_floats(rows * channels, 2)),
        gamma(random_floats(channels, 3, 0.5, 2)),
        beta(random_floats(channels, 4)),
        dy(random_floats(rows * channels, 5)) {}
};

struct Result {
  std::vector<float> mean, variance, rstd, y, g, dx, dgamma, dbeta;
};

constexpr double kEps = 1e-5;

Result run(const Case& c, int threads) {
  const size_t n = c.x.size(), channels = c.gamma.size();
  const std::vector<float> row(channels), all(n);
  Result r{row, row, row, all, all, all, row, row};
  batch_moments({c.rows, c.channels, c.x.data(), r.mean.data(), r.variance.data()}, threads);
  for (size_t i = 0; i < channels; ++i)
    r.rstd[i] = static_cast<float>(1 / std::sqrt(double{r.variance[i]} + kEps));
  batch_norm_apply({c.rows, c.channels, c.x.data(), c.residual ? c.past.data() : nullptr, r.mean.data(),
                    r.rstd.data(), c.gamma.data(), c.beta.data(), c.relu, r.y.data()},
                   threads);
  batch_norm_backward({c.rows, c.channels, c.x.data(), c.relu ? r.y.data() : nullptr, r.mean.data(),
                       r.rstd.data(), c.gamma.data(), /*beta=*/nullptr, c.dy.data(),
                       c.residual ? r.g.data() : nullptr, r.dx.data(), r.dgamma.data(), r.dbeta.data()},
                      threads);
  return r;
}

// The textbook formulas in double.
void expect_formula(const Case& c, const Result& r) {
  const auto n = static_cast<double>(c.rows);
  std::vector<double> y(c.x.size()), dx(c.x.size());
  for (int64_t k = 0; k < c.channels; ++k) {
    const auto each = [&](const auto& fn) {
      for (int64_t i = k; i < c.rows * c.channels; i += c.channels) fn(static_cast<size_t>(i));
    };
    double mean = 0, variance = 0, sum = 0, product = 0;
    each([&](size_t i) { mean += c.x[i] / n; });
    each([&](size_t i) { variance += (c.x[i] - mean) * (c.x[i] - mean) / n; });
    EXPECT_NEAR(r.mean[k], mean, 1e-6 * std::max(1.0, std::abs(mean)));
    EXPECT_NEAR(r.variance[k], variance, 1e-6 * variance);
    const double rstd = 1 / std::sqrt(variance + kEps);
    const auto g = [&](size_t i) { return c.relu && !(r.y[i] > 0) ? 0.0 : c.dy[i]; };
    each([&](size_t i) {
      y[i] = (c.x[i] - mean) * rstd * c.gamma[k] + c.beta[k] + (c.residual ? c.past[i] : 0);
      if (c.relu) y[i] = std::max(0.0, y[i]);
      sum += g(i);
      product += g(i) * (c.x[i] - mean) * rstd;
    });
    each([&](size_t i) {
      dx[i] = c.gamma[k] * rstd * (g(i) - sum / n - (c.x[i] - mean) * rstd * product / n);
      if (c.residual) {
        EXPECT_EQ(r.g[i], g(i));
      }
    });
    EXPECT_NEAR(r.dbeta[k], sum, 1e-5 * std::max(1.0, std::abs(sum)));
    EXPECT_NEAR(r.dgamma[k], product, 1e-5 * std::max(1.0, std::abs(product)));
  }
  EXPECT_LT(testing::worst_error(r.y, y), 2e-6);
  EXPECT_LT(testing::worst_error(r.dx, dx), c.rows > 2 ? 4e-6 : 1e-3);  // two rows cancel to almost nothing
}

TEST(BatchNorm, EqualsTheFormula) {
  testing::for_each_target([](const char*) {
    for (const int64_t channels : {1, 3, 16, 37, 64}) {
      for (const int64_t rows : {2, 63, 64, 65, 1000}) {
        for (const bool relu : {false, true}) {
          for (const bool residual : {false, true}) {
            const Case c(rows, channels, relu, residual);
            expect_formula(c, run(c, 1));
          }
        }
      }
    }
  });
}

TEST(BatchNorm, BitsDoNotDependOnThreadsOrInstructionSetWithFma) {
  const Case c(4097, 24, true, true);
  const Result one = run(c, 1);
  testing::for_each_target([&](const char* target) {
    if (std::string(target) == "SCALAR") return;
    for (const int threads : {1, 2, 3, 7}) {
      const Result other = run(c, threads);
      EXPECT_TRUE(same_bits(one.variance, other.variance));
      EXPECT_TRUE(same_bits(one.y, other.y));
      EXPECT_TRUE(same_bits(one.dx, other.dx));
      EXPECT_TRUE(same_bits(one.dgamma, other.dgamma));
    }
  });
}

// Of 16-bit numbers it is what float32 says of them, rounded where it is written.
template <class H>
void expect_half_is_rounded(const Case& plain) {
  const auto x = narrowed<H>(plain.x), past = narrowed<H>(plain.past), dy = narrowed<H>(plain.dy);
  const std::vector<float> row(static_cast<size_t>(plain.channels));
  std::vector<H> y(x.size()), g(x.size()), dx(x.size());
  std::vector<float> mean = row, variance = row, dgamma = row, dbeta = row;
  batch_moments({plain.rows, plain.channels, x.data(), mean.data(), variance.data()}, 2);
  Case wide = plain;
  wide.x = widened(x);
  wide.past = widened(past);
  wide.dy = widened(dy);
  Result want = run(wide, 1);
  EXPECT_TRUE(same_bits(mean, want.mean) && same_bits(variance, want.variance));
  batch_norm_apply({plain.rows, plain.channels, x.data(), plain.residual ? past.data() : nullptr, mean.data(),
                    want.rstd.data(), plain.gamma.data(), plain.beta.data(), plain.relu, y.data()},
                   2);
  EXPECT_TRUE(same_bits(widened(y), widened(narrowed<H>(want.y))));
  batch_norm_backward({plain.rows, plain.channels, x.data(), plain.relu ? y.data() : nullptr, mean.data(),
                       want.rstd.data(), plain.gamma.data(), /*beta=*/nullptr, dy.data(),
                       plain.residual ? g.data() : nullptr, dx.data(), dgamma.data(), dbeta.data()},
                      2);
  EXPECT_TRUE(same_bits(widened(dx), widened(narrowed<H>(want.dx))));
  EXPECT_TRUE(!plain.residual || same_bits(widened(g), want.g));
  EXPECT_TRUE(same_bits(dgamma, want.dgamma) && same_bits(dbeta, want.dbeta));
}

TEST(BatchNorm, HalfIsRoundedWhereItIsWritten) {
  testing::for_each_target([](const char*) {
    for (const bool relu : {false, true}) {
      for (const bool residual : {false, true}) {
        expect_half_is_rounded<bf16>(Case(777, 37, relu, residual));
        expect_half_is_rounded<f16>(Case(777, 37, relu, residual));
      }
    }
  });
}

struct Gradients {
  std::vector<float> dx, dgamma, dbeta;
};

// Backward of numbers T, the ReLU known by y or by beta.
template <class T>
Gradients through_relu(const Case& c, const Result& forward, const T* y, const float* beta) {
  std::vector<T> x(c.x.size()), dy(c.x.size()), dx(c.x.size());
  if constexpr (std::is_same_v<T, float>) {
    x = c.x;
    dy = c.dy;
  } else {
    x = narrowed<T>(c.x);
    dy = narrowed<T>(c.dy);
  }
  const std::vector<float> row(c.gamma.size());
  Gradients r{{}, row, row};
  batch_norm_backward({c.rows, c.channels, x.data(), y, forward.mean.data(), forward.rstd.data(),
                       c.gamma.data(), beta, dy.data(), nullptr, dx.data(), r.dgamma.data(), r.dbeta.data()},
                      2);
  if constexpr (std::is_same_v<T, float>) {
    r.dx = dx;
  } else {
    r.dx = widened(dx);
  }
  return r;
}

template <class T>
void expect_the_same_gate(const Case& c) {
  const Result forward = run(c, 1);
  std::vector<T> x(c.x.size()), y(c.x.size());
  if constexpr (std::is_same_v<T, float>) {
    x = c.x;
  } else {
    x = narrowed<T>(c.x);
  }
  batch_norm_apply({c.rows, c.channels, x.data(), nullptr, forward.mean.data(), forward.rstd.data(),
                    c.gamma.data(), c.beta.data(), true, y.data()},
                   2);
  const Gradients by_output = through_relu<T>(c, forward, y.data(), nullptr);
  const Gradients again = through_relu<T>(c, forward, nullptr, c.beta.data());
  EXPECT_TRUE(same_bits(by_output.dx, again.dx) && same_bits(by_output.dgamma, again.dgamma) &&
              same_bits(by_output.dbeta, again.dbeta));
  const std::vector<float> other(c.beta.size(), 0.5F);
  EXPECT_FALSE(same_bits(by_output.dx, through_relu<T>(c, forward, nullptr, other.data()).dx));
}

// Also of values that rounding takes to zero: a beta of nothing, and gammas from 2^-20 down to 2^-27, of
// which float16 has no more.
TEST(BatchNorm, TheReluIsTheSameByItsOutputAndByTheNorm) {
  testing::for_each_target([](const char*) {
    Case c(777, 37, true, false);
    for (int i = 0; i < 2; ++i) {
      expect_the_same_gate<float>(c);
      expect_the_same_gate<bf16>(c);
      expect_the_same_gate<f16>(c);
      for (size_t k = 0; k < c.gamma.size(); ++k) {
        c.gamma[k] = std::ldexp(1.0F, -20 - static_cast<int>(k % 8));
        c.beta[k] = 0;
      }
    }
  });
}

// A variance a million times below the square of its mean: naive sums of squares lose it all.
TEST(BatchNorm, AMeanFarAwayDoesNotHideTheVariance) {
  std::vector<float> x = random_floats(10000, 1, 999, 1001);
  double mean = 0, variance = 0;
  for (const float v : x) mean += v / 10000.0;
  for (const float v : x) variance += (v - mean) * (v - mean) / 10000.0;
  float got_mean = 0, got_variance = 0;
  batch_moments({10000, 1, x.data(), &got_mean, &got_variance}, 1);
  EXPECT_NEAR(got_variance, variance, 1e-4 * variance);
}

TEST(BatchNorm, NotANumberIsNotHidden) {
  Case c(100, 5, true, true);
  c.x[7] = NAN;
  const Result r = run(c, 1);
  EXPECT_TRUE(std::isnan(r.y[2]));
  EXPECT_FALSE(std::isnan(r.y[3]));
}

}  // namespace
}  // namespace furrow::tensor::kernels
