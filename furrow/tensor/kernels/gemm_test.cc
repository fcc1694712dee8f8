#include "furrow/tensor/kernels/gemm.h"

#include "furrow/tensor/kernels/test_support.h"

namespace furrow::tensor::kernels {
namespace {

using testing::random_floats;
using testing::same_bits;

struct Case {
  int64_t m, n, k;
  std::vector<float> a, b;  // A [m, k], B [k, n], row-major
  Case(int64_t m, int64_t n, int64_t k)
      : m(m), n(n), k(k), a(random_floats(m * k, 1)), b(random_floats(k * n, 2)) {}
};

std::vector<Case> cases() {
  return {{1, 1, 1},       {3, 5, 7},     {14, 32, 64},   {15, 33, 65},    {29, 70, 513},
          {128, 10, 1030}, {64, 120, 84}, {200, 65, 128}, {300, 17, 1200}, {2, 400, 300},
          {40, 70, 1100},  {20, 90, 700}, {1, 1, 0}};
}

std::vector<double> product(const Case& c) {
  std::vector<double> out(static_cast<size_t>(c.m * c.n));
  for (int64_t i = 0; i < c.m; ++i) {
    for (int64_t k = 0; k < c.k; ++k) {
      for (int64_t j = 0; j < c.n; ++j) {
        out[static_cast<size_t>(i * c.n + j)] += static_cast<double>(c.a[static_cast<size_t>(i * c.k + k)]) *
                                                 static_cast<double>(c.b[static_cast<size_t>(k * c.n + j)]);
      }
    }
  }
  return out;
}

std::vector<float> transposed(const std::vector<float>& x, int64_t rows, int64_t columns) {
  std::vector<float> out(x.size());
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      out[static_cast<size_t>(j * rows + i)] = x[static_cast<size_t>(i * columns + j)];
    }
  }
  return out;
}

std::vector<float> run(const Case& c, int threads, Epilogue epilogue = {}) {
  std::vector<float> out(static_cast<size_t>(c.m * c.n), NAN);
  gemm({c.m, c.n, c.k, {c.a.data(), c.k, 1}, {c.b.data(), c.n, 1}, out.data(), c.n, epilogue}, threads);
  return out;
}

TEST(Gemm, EqualsTheDefinitionInEveryLayout) {
  for (const Case& c : cases()) {
    const std::vector<double> want = product(c);
    const std::vector<float> at = transposed(c.a, c.m, c.k), bt = transposed(c.b, c.k, c.n);
    testing::for_each_target([&](const char*) {
      const std::vector<float> plain = run(c, 2);
      EXPECT_LT(testing::worst_error(plain, want), 1e-6 * std::sqrt(static_cast<double>(c.k + 1)));
      for (const auto& [a, b] : {std::pair<MatrixView, MatrixView>{{c.a.data(), c.k, 1}, {bt.data(), 1, c.k}},
                                 {{at.data(), 1, c.m}, {c.b.data(), c.n, 1}},
                                 {{at.data(), 1, c.m}, {bt.data(), 1, c.k}}}) {
        std::vector<float> out(plain.size(), NAN);
        gemm({c.m, c.n, c.k, a, b, out.data(), c.n, {}}, 3);
        EXPECT_TRUE(same_bits(out, plain)) << c.m << " " << c.n << " " << c.k;
      }
    });
  }
}

// The stated order: one chain of fused multiply-adds.
TEST(Gemm, EveryElementIsOneChain) {
  for (const Case& c : cases()) {
    std::vector<float> want(static_cast<size_t>(c.m * c.n));
    for (size_t at = 0; at < want.size(); ++at) {
      const int64_t i = static_cast<int64_t>(at) / c.n, j = static_cast<int64_t>(at) % c.n;
      for (int64_t k = 0; k < c.k; ++k) {
        want[at] =
            std::fma(c.a[static_cast<size_t>(i * c.k + k)], c.b[static_cast<size_t>(k * c.n + j)], want[at]);
      }
    }
    testing::for_each_target([&](const char* target) {
      if (std::string(target) == "SCALAR") return;  // no FMA there
      for (const int threads : {1, 2, 3, 8}) EXPECT_TRUE(same_bits(run(c, threads), want));
    });
    if (c.k > 64) {
      Case reversed = c;  // another order of the same sum is another number
      std::reverse(reversed.a.begin(), reversed.a.begin() + c.k);
      for (int64_t k = 0; k < c.k / 2; ++k) {
        std::swap_ranges(reversed.b.begin() + k * c.n, reversed.b.begin() + (k + 1) * c.n,
                         reversed.b.begin() + (c.k - 1 - k) * c.n);
      }
      const std::vector<float> other = run(reversed, 1);
      EXPECT_NE(0, std::memcmp(other.data(), want.data(), static_cast<size_t>(c.n) * sizeof(float)));
    }
  }
}

TEST(Gemm, ProductsOverPartsOfKGiveTheBitsOfOneOverAll) {
  for (const Case& c : cases()) {
    if (c.k < 2) continue;
    const int64_t half = c.k / 2;
    testing::for_each_target([&](const char*) {
      std::vector<float> out(static_cast<size_t>(c.m * c.n), NAN);
      gemm({c.m, c.n, half, {c.a.data(), c.k, 1}, {c.b.data(), c.n, 1}, out.data(), c.n}, 2);
      gemm({.m = c.m,
            .n = c.n,
            .k = c.k - half,
            .a = {c.a.data() + half, c.k, 1},
            .b = {c.b.data() + half * c.n, c.n, 1},
            .c = out.data(),
            .ldc = c.n,
            .accumulate = true},
           2);
      EXPECT_TRUE(same_bits(out, run(c, 1)));
    });
  }
}

TEST(Gemm, BitsDoNotDependOnAlignment) {
  const Case c(37, 45, 200);
  const std::vector<float> want = run(c, 1);
  testing::Shifted a(c.a, 3), b(c.b, 7), out(want, 5);
  std::fill(out.storage.begin(), out.storage.end(), NAN);
  gemm({c.m, c.n, c.k, {a.data(), c.k, 1}, {b.data(), c.n, 1}, out.data(), c.n, {}}, 1);
  EXPECT_TRUE(same_bits(out.values(), want));
}

TEST(Gemm, WritesNothingBesideItsColumns) {
  const Case c(20, 39, 50);
  std::vector<float> out(static_cast<size_t>(c.m * 64), 7);
  gemm({c.m, c.n, c.k, {c.a.data(), c.k, 1}, {c.b.data(), c.n, 1}, out.data(), 64, {}}, 1);
  for (int64_t i = 0; i < c.m; ++i) {
    for (int64_t j = c.n; j < 64; ++j) EXPECT_EQ(out[static_cast<size_t>(i * 64 + j)], 7);
  }
}

TEST(Gemm, EpilogueAppliesInOrder) {
  const Case c(15, 37, 20);
  const std::vector<double> p = product(c);
  const std::vector<float> bias = random_floats(c.n, 3), gate = random_floats(c.m * c.n, 4);
  testing::for_each_target([&](const char*) {
    const std::vector<float> got = run(c, 1,
                                       {.bias = bias.data(),
                                        .activation = Activation::kRelu,
                                        .multiply = gate.data(),
                                        .positive = gate.data()});
    std::vector<double> want(p.size());
    for (size_t i = 0; i < p.size(); ++i) {
      const double z = p[i] + static_cast<double>(bias[i % static_cast<size_t>(c.n)]), g = gate[i];
      want[i] = g > 0 ? std::max(0.0, z) * g : 0;
    }
    EXPECT_LT(testing::worst_error(got, want), 1e-6);
  });
}

// Columns that lie along k are computed as rows: what follows the sums is the same, element by element.
TEST(Gemm, EpilogueDoesNotDependOnTheLayout) {
  for (const Case& c : {Case(15, 37, 20), Case(33, 130, 70)}) {
    const std::vector<float> bias = random_floats(c.n, 3), gate = random_floats(c.m * c.n, 4),
                             bt = transposed(c.b, c.k, c.n);
    testing::for_each_target([&](const char*) {
      for (const Activation activation : {Activation::kNone, Activation::kRelu, Activation::kGelu}) {
        std::vector<float> slopes[2], outs[2];
        for (const bool turned : {false, true}) {
          slopes[turned].assign(gate.size(), 5);
          outs[turned].assign(gate.size(), NAN);
          Epilogue e{.bias = bias.data(), .activation = activation};
          if (activation == Activation::kGelu) e.slope = slopes[turned].data();
          if (activation == Activation::kNone) e.multiply = gate.data();
          const MatrixView b = turned ? MatrixView{bt.data(), 1, c.k} : MatrixView{c.b.data(), c.n, 1};
          gemm({c.m, c.n, c.k, {c.a.data(), c.k, 1}, b, outs[turned].data(), c.n, e}, 2);
        }
        EXPECT_TRUE(same_bits(outs[0], outs[1]) && same_bits(slopes[0], slopes[1]));
      }
    });
  }
}

TEST(Gemm, NotANumberPassesTheRelu) {
  Case c(2, 3, 4);
  c.a[0] = NAN;
  const std::vector<float> got = run(c, 1, {.activation = Activation::kRelu});
  EXPECT_TRUE(std::isnan(got[0]) && std::isnan(got[2]));
  EXPECT_FALSE(std::isnan(got[3]));
}

TEST(Linear, ThreeProductsEqualTheDefinition) {
  const LinearShape s{37, 50, 70};
  const std::vector<float> x = random_floats(s.rows * s.in, 1), w = random_floats(s.in * s.out, 2),
                           b = random_floats(s.out, 3), dz = random_floats(s.rows * s.out, 4);
  std::vector<double> y(dz.size()), dx(x.size()), dw(w.size());
  for (int64_t r = 0; r < s.rows; ++r) {
    for (int64_t o = 0; o < s.out; ++o) {
      const size_t ro = static_cast<size_t>(r * s.out + o);
      y[ro] = b[static_cast<size_t>(o)];
      for (int64_t i = 0; i < s.in; ++i) {
        const size_t ri = static_cast<size_t>(r * s.in + i), oi = static_cast<size_t>(o * s.in + i);
        y[ro] += static_cast<double>(x[ri]) * static_cast<double>(w[oi]);
        dx[ri] += static_cast<double>(dz[ro]) * static_cast<double>(w[oi]);
        dw[oi] += static_cast<double>(dz[ro]) * static_cast<double>(x[ri]);
      }
    }
  }
  std::vector<float> got_y(y.size()), got_dx(dx.size()), got_dw(dw.size());
  linear_forward({.shape = s, .x = x.data(), .weight = w.data(), .bias = b.data(), .y = got_y.data()}, 1);
  linear_backward_input({.shape = s, .dz = dz.data(), .weight = w.data(), .dx = got_dx.data()}, 1);
  linear_backward_weight({.shape = s, .dz = dz.data(), .x = x.data(), .dweight = got_dw.data()}, 1);
  EXPECT_LT(testing::worst_error(got_y, y), 3e-6);
  EXPECT_LT(testing::worst_error(got_dx, dx), 3e-6);
  EXPECT_LT(testing::worst_error(got_dw, dw), 3e-6);
}

}  // namespace
}  // namespace furrow::tensor::kernels
