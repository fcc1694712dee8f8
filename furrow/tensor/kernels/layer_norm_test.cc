#include "furrow/tensor/kernels/layer_norm.h"

#include "furrow/tensor/kernels/test_support.h"

namespace furrow::tensor::kernels {
namespace {

using testing::random_floats;
using testing::same_bits;

struct Case {
  int64_t rows, columns;
  std::vector<float> x, residual, gamma, beta, dy, past;
  Case(int64_t rows, int64_t columns)
      : rows(rows),
        columns(columns),
        x(random_floats(rows * columns, 1, -3, 5)),
        residual(random_floats(rows * columns, 2)),
        gamma(random_floats(columns, 3)),
        beta(random_floats(columns, 4)),
        dy(random_floats(rows * columns, 5)),
        past(random_floats(rows * columns, 6)) {}
};

struct Result {
  std::vector<float> sum, y, mean, rstd, dx, dgamma, dbeta;
};

Result run(const Case& c, int threads) {
  const size_t n = c.x.size(), rows = static_cast<size_t>(c.rows), columns = static_cast<size_t>(c.columns);
  Result r{std::vector<float>(n),      std::vector<float>(n), std::vector<float>(rows),
           std::vector<float>(rows),   std::vector<float>(n), std::vector<float>(columns),
           std::vector<float>(columns)};
  layer_norm_forward({.rows = c.rows,
                      .columns = c.columns,
                      .x = c.x.data(),
                      .residual = c.residual.data(),
                      .sum = r.sum.data(),
                      .gamma = c.gamma.data(),
                      .beta = c.beta.data(),
                      .y = r.y.data(),
                      .mean = r.mean.data(),
                      .rstd = r.rstd.data()},
                     threads);
  layer_norm_backward({.rows = c.rows,
                       .columns = c.columns,
                       .x = r.sum.data(),
                       .gamma = c.gamma.data(),
                       .mean = r.mean.data(),
                       .rstd = r.rstd.data(),
                       .dy = c.dy.data(),
                       .add = c.past.data(),
                       .dx = r.dx.data(),
                       .dgamma = r.dgamma.data(),
                       .dbeta = r.dbeta.data()},
                      threads);
  return r;
}

TEST(LayerNorm, EqualsTheFormula) {
  for (const auto& [rows, columns] : {std::pair{130, 128}, {3, 7}, {65, 50}, {1, 1}, {2, 1000}}) {
    const Case c(rows, columns);
    const size_t n = static_cast<size_t>(columns);
    std::vector<double> y, dx, dgamma(n), dbeta(n);
    for (size_t r = 0; r < static_cast<size_t>(rows); ++r) {
      std::vector<double> v(n), g(n);
      double mean = 0, var = 0, mean_g = 0, mean_gx = 0;
      for (size_t i = 0; i < n; ++i)
        v[i] = static_cast<double>(c.x[r * n + i]) + c.residual[r * n + i],
        mean += v[i] / static_cast<double>(n);
      for (size_t i = 0; i < n; ++i) var += (v[i] - mean) * (v[i] - mean) / static_cast<double>(n);
      const double rstd = 1 / std::sqrt(var + 1e-5);
      for (size_t i = 0; i < n; ++i) {
        v[i] = (v[i] - mean) * rstd;
        y.push_back(v[i] * c.gamma[i] + c.beta[i]);
        g[i] = static_cast<double>(c.dy[r * n + i]) * c.gamma[i];
        dgamma[i] += c.dy[r * n + i] * v[i];
        dbeta[i] += c.dy[r * n + i];
        mean_g += g[i] / static_cast<double>(n);
        mean_gx += g[i] * v[i] / static_cast<double>(n);
      }
      for (size_t i = 0; i < n; ++i)
        dx.push_back(rstd * (g[i] - mean_g - v[i] * mean_gx) + c.past[r * n + i]);
    }
    testing::for_each_target([&](const char*) {
      const Result got = run(c, 2);
      EXPECT_LT(testing::worst_error(got.y, y), 2e-6) << columns;
      EXPECT_LT(testing::worst_error(got.dx, dx), columns > 1 ? 4e-6 : 1e-3) << columns;
      EXPECT_LT(testing::worst_error(got.dgamma, dgamma), 4e-6) << columns;
      EXPECT_LT(testing::worst_error(got.dbeta, dbeta), 2e-6) << columns;
    });
  }
}

TEST(LayerNorm, BitsDoNotDependOnThreadsOrInstructionSetWithFma) {
  const Case c(700, 100);
  const Result one = run(c, 1);
  testing::for_each_target([&](const char* target) {
    if (std::string(target) == "SCALAR") return;
    for (const int threads : {1, 2, 5}) {
      const Result many = run(c, threads);
      EXPECT_TRUE(same_bits(one.y, many.y) && same_bits(one.dx, many.dx) &&
                  same_bits(one.dgamma, many.dgamma) && same_bits(one.dbeta, many.dbeta));
    }
  });
  Case swapped = c;  // the order of the rows is part of the sum
  std::swap_ranges(swapped.dy.begin(), swapped.dy.begin() + 100, swapped.dy.begin() + 100 * 65);
  EXPECT_FALSE(same_bits(run(swapped, 1).dbeta, one.dbeta));
}

}  // namespace
}  // namespace furrow::tensor::kernels
