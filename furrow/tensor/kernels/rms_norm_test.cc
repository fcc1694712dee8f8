#include "furrow/tensor/kernels/rms_norm.h"

#include "furrow/tensor/kernels/test_support.h"

namespace furrow::tensor::kernels {
namespace {

using testing::random_floats;
using testing::same_bits;

struct Case {
  int64_t rows, columns;
  std::vector<float> x, gamma, dy;
  Case(int64_t rows, int64_t columns)
      : rows(rows),
        columns(columns),
        x(random_floats(rows * columns, 1, -3, 5)),
        gamma(random_floats(columns, 3)),
        dy(random_floats(rows * columns, 5)) {}
};

struct Result {
  std::vector<float> y, rrms, dx, dgamma;
};

Result run(const Case& c, int threads) {
  Result r{std::vector<float>(c.x.size()), std::vector<float>(static_cast<size_t>(c.rows)),
           std::vector<float>(c.x.size()), std::vector<float>(static_cast<size_t>(c.columns))};
  rms_norm_forward({.rows = c.rows,
                    .columns = c.columns,
                    .x = c.x.data(),
                    .gamma = c.gamma.data(),
                    .y = r.y.data(),
                    .rrms = r.rrms.data()},
                   threads);
  rms_norm_backward({.rows = c.rows,
                     .columns = c.columns,
                     .x = c.x.data(),
                     .gamma = c.gamma.data(),
                     .rrms = r.rrms.data(),
                     .dy = c.dy.data(),
                     .dx = r.dx.data(),
                     .dgamma = r.dgamma.data()},
                    threads);
  return r;
}

TEST(RmsNorm, EqualsTheFormula) {
  for (const auto& [rows, columns] : {std::pair{130, 128}, {3, 7}, {65, 50}, {1, 1}, {2, 1000}}) {
    const Case c(rows, columns);
    const size_t n = static_cast<size_t>(columns);
    std::vector<double> y, dx, dgamma(n);
    for (size_t r = 0; r < static_cast<size_t>(rows); ++r) {
      double square = 0, mean_gx = 0;
      for (size_t i = 0; i < n; ++i) square += static_cast<double>(c.x[r * n + i]) * c.x[r * n + i];
      const double rrms = 1 / std::sqrt(square / static_cast<double>(n) + 1e-5);
      for (size_t i = 0; i < n; ++i) {
        const double xn = c.x[r * n + i] * rrms;
        y.push_back(xn * c.gamma[i]);
        dgamma[i] += c.dy[r * n + i] * xn;
        mean_gx += static_cast<double>(c.dy[r * n + i]) * c.gamma[i] * xn / static_cast<double>(n);
      }
      for (size_t i = 0; i < n; ++i) {
        const double g = static_cast<double>(c.dy[r * n + i]) * c.gamma[i];
        dx.push_back(rrms * (g - c.x[r * n + i] * rrms * mean_gx));
      }
    }
    testing::for_each_target([&](const char*) {
      const Result got = run(c, 2);
      EXPECT_LT(testing::worst_error(got.y, y), 2e-6) << columns;
      EXPECT_LT(testing::worst_error(got.dx, dx), 4e-6) << columns;
      EXPECT_LT(testing::worst_error(got.dgamma, dgamma), 4e-6) << columns;
    });
  }
}

TEST(RmsNorm, BitsDoNotDependOnThreadsOrInstructionSetWithFma) {
  const Case c(700, 100);
  const Result one = run(c, 1);
  testing::for_each_target([&](const char* target) {
    if (std::string(target) == "SCALAR") return;
    for (const int threads : {1, 2, 5}) {
      const Result many = run(c, threads);
      EXPECT_TRUE(same_bits(one.y, many.y) && same_bits(one.dx, many.dx) &&
                  same_bits(one.dgamma, many.dgamma));
    }
  });
  Case swapped = c;  // the order of the rows is part of the sum
  std::swap_ranges(swapped.dy.begin(), swapped.dy.begin() + 100, swapped.dy.begin() + 100 * 65);
  std::swap_ranges(swapped.x.begin(), swapped.x.begin() + 100, swapped.x.begin() + 100 * 65);
  EXPECT_FALSE(same_bits(run(swapped, 1).dgamma, one.dgamma));
}

}  // namespace
}  // namespace furrow::tensor::kernels
