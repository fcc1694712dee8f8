#include "furrow/tensor/kernels/quantised_adam.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "furrow/tensor/kernels/adafactor.h"
#include "furrow/tensor/kernels/optimizer.h"
#include "furrow/tensor/kernels/test_support.h"

namespace furrow::tensor::kernels {
namespace {

using testing::random_floats;
using testing::same_bits;

TEST(DynamicMap, HasThePapersValues) {
  for (const bool is_signed : {true, false}) {
    const auto& map = dynamic_map(is_signed);
    EXPECT_EQ(std::set<float>(map.begin(), map.end()).size(), 256u);
    EXPECT_EQ(map[0], 0.0F);
    EXPECT_EQ(*std::max_element(map.begin(), map.end()), 1.0F);
    const auto decade = std::count_if(map.begin(), map.end(), [](float x) { return x > 0.1F && x < 1; });
    EXPECT_EQ(decade, is_signed ? 64 : 128);
  }
  EXPECT_FLOAT_EQ(dynamic_map(true)[1], 0.55e-6F);
  EXPECT_FLOAT_EQ(dynamic_map(true)[255], -0.55e-6F);
  EXPECT_FLOAT_EQ(dynamic_map(true)[127], static_cast<float>(1 - 0.45 / 64));
  EXPECT_FLOAT_EQ(dynamic_map(false)[254], static_cast<float>(1 - 0.45 / 128));
}

TEST(DynamicMap, NearestIsNearest) {
  for (const bool is_signed : {true, false}) {
    const auto& map = dynamic_map(is_signed);
    for (int code = 0; code < 256; ++code) EXPECT_EQ(nearest_code(map[code], is_signed), code);
    for (float x : random_floats(2000, 3, is_signed ? -1 : 0, 1)) {
      x *= x * x;
      const float kept = map[nearest_code(x, is_signed)];
      float least = 2;
      for (const float value : map) least = std::min(least, std::fabs(value - x));
      EXPECT_LE(std::fabs(kept - x), least + std::fabs(x) * 0x1p-21F);  // of the rounding of an index
    }
  }
}

struct State {
  std::vector<float> param, grad;
  std::vector<uint8_t> first, second;
  std::vector<float> first_scale, second_scale;
  explicit State(int64_t n)
      : param(random_floats(n, 1)),
        grad(random_floats(n, 2)),
        first(n),
        second(n),
        first_scale(quantised_blocks(n)),
        second_scale(quantised_blocks(n)) {}

  QuantisedAdam args(int64_t begin, int64_t n, int64_t step) {
    const int64_t block = begin / kQuantisedBlock;
    return {.n = n,
            .param = param.data() + begin,
            .grad = grad.data() + begin,
            .first = first.data() + begin,
            .first_scale = first_scale.data() + block,
            .second = second.data() + begin,
            .second_scale = second_scale.data() + block,
            .grad_scale = 0.5F,
            .lr = 0.003,
            .beta1 = 0.9,
            .beta2 = 0.99,
            .eps = 1e-8,
            .weight_decay = 0.1,
            .step = step};
  }
};

// One element after the other, in double but for what is kept.
void reference(State* s, int64_t n, int64_t step) {
  const auto correct = [&](double beta) { return 1 - std::pow(beta, static_cast<double>(step)); };
  std::vector<float> m(n), root(n);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t b = i / kQuantisedBlock;
    const double g = 0.5 * s->grad[i];
    const double old = double{dynamic_map(false)[s->second[i]]} * s->second_scale[b];
    m[i] = static_cast<float>(0.9 * dynamic_map(true)[s->first[i]] * s->first_scale[b] + (1 - 0.9) * g);
    root[i] = static_cast<float>(std::sqrt(0.99 * old * old + (1 - 0.99) * g * g));
    const double scale = root[i] / std::sqrt(correct(0.99)) + 1e-8;
    s->param[i] = static_cast<float>(s->param[i] * (1 - 0.003 * 0.1) - 0.003 / correct(0.9) * m[i] / scale);
  }
  for (int64_t b = 0; b < quantised_blocks(n); ++b) {
    const int64_t begin = b * kQuantisedBlock, end = std::min(n, begin + kQuantisedBlock);
    float first = 0, second = 0;
    for (int64_t i = begin; i < end; ++i) {
      first = std::max(first, std::fabs(m[i]));
      second = std::max(second, root[i]);
    }
    for (int64_t i = begin; i < end; ++i) {
      s->first[i] = nearest_code(m[i] / first, true);
      s->second[i] = nearest_code(root[i] / second, false);
    }
    s->first_scale[b] = first;
    s->second_scale[b] = second;
  }
}

TEST(QuantisedAdam, TenStepsFollowTheFormula) {
  testing::for_each_target([](const char*) {
    State ours(1003), expected(1003);
    for (int step = 1; step <= 10; ++step) {
      ours.grad = expected.grad = random_floats(1003, 100 + step);
      quantised_adam_step(ours.args(0, 1003, step), 1);
      reference(&expected, 1003, step);
    }
    // A value within rounding of a border may take the other code; what it does to a step is a code's width.
    int codes = 0;
    double worst = 0;
    for (size_t i = 0; i < 1003; ++i) {
      codes += ours.first[i] == expected.first[i] && ours.second[i] == expected.second[i] ? 0 : 1;
      worst = std::max(worst, std::fabs(double{ours.param[i]} - expected.param[i]));
    }
    EXPECT_LE(codes, 10);
    EXPECT_LE(worst, 1e-4);
    const std::vector<double> scales(expected.first_scale.begin(), expected.first_scale.end());
    EXPECT_LT(testing::worst_error(ours.first_scale, scales), 1e-2);
  });
}

// Codes are computed from vectors: nearest_code() and the map say what must come out, on every instruction
// set.
TEST(QuantisedAdam, CodesAreThoseOfTheMap) {
  std::vector<float> grads;
  for (int code = 0; code < 256; ++code) {  // every value and border, and what lies beside them
    for (const bool is_signed : {true, false}) {
      const auto& map = dynamic_map(is_signed);
      const float value = map[static_cast<size_t>(code)];
      const float border = (value + map[static_cast<size_t>(code == 255 ? 255 : code + 1)]) / 2;
      for (const float x : {value, border}) {
        for (const float to : {-2.0F, 2.0F}) {
          grads.push_back(x);
          grads.push_back(std::min(std::nextafter(x, to), 1.0F));
        }
      }
    }
  }
  for (const float x : random_floats(4096, 7)) grads.push_back(x * x * x);
  for (size_t i = 0; i < grads.size(); i += kQuantisedBlock) grads[i] = 1;  // the scale of each block
  testing::for_each_target([&](const char* target) {
    const auto n = static_cast<int64_t>(grads.size());
    State s(n);
    QuantisedAdam args = s.args(0, n, 1);
    args.grad = grads.data();
    args.grad_scale = 1;
    args.lr = args.beta1 = args.beta2 = 0;
    quantised_adam_step(args, 1);
    for (size_t i = 0; i < grads.size(); ++i) {
      ASSERT_EQ(s.first[i], nearest_code(grads[i], true)) << target << ' ' << grads[i];
      if (std::fabs(grads[i]) < 1e-18F) continue;  // its square is none
      ASSERT_EQ(s.second[i], nearest_code(std::sqrt(grads[i] * grads[i]), false))
          << target << ' ' << grads[i];
    }
  });
}

TEST(QuantisedAdam, ValuesAreThoseOfTheMap) {
  testing::for_each_target([&](const char* target) {
    for (const bool is_signed : {true, false}) {
      State s(256);
      std::ranges::fill(s.param, 0.0F);
      std::ranges::fill(s.grad, 0.0F);
      for (size_t code = 0; code < 256; ++code) {
        s.first[code] = is_signed ? static_cast<uint8_t>(code) : 128;
        s.second[code] = is_signed ? 0 : static_cast<uint8_t>(code);
      }
      s.first_scale[0] = s.second_scale[0] = 1;
      QuantisedAdam args = s.args(0, 256, 1);
      args.lr = args.beta1 = 0.5;
      args.beta2 = 0.75;
      args.eps = 1;
      args.weight_decay = 0;
      quantised_adam_step(args, 1);
      for (size_t code = 0; code < 256; ++code) {
        const float value = dynamic_map(is_signed)[code];
        if (is_signed) {
          ASSERT_EQ(s.param[code], -0.5F * value) << target << ' ' << code;
        } else {  // a root of 3/4 over one of 1/4
          const double expected = -0.5 / (std::sqrt(3.0) * value + 1);
          ASSERT_NEAR(s.param[code], expected, 2e-7) << target << ' ' << code;
        }
      }
    }
  });
}

TEST(QuantisedAdam, BitsDependOnTheBlockAlone) {
  constexpr int64_t kSize = 100 * 1024 + 77;
  State whole(kSize), parts(kSize);
  for (int step = 1; step <= 3; ++step) {
    quantised_adam_step(whole.args(0, kSize, step), 1);
    for (int64_t from = 0, blocks = 1; from < kSize;
         from += blocks * kQuantisedBlock, blocks = blocks * 2 + 1)
      quantised_adam_step(parts.args(from, std::min(blocks * kQuantisedBlock, kSize - from), step), 3);
  }
  EXPECT_TRUE(same_bits(whole.param, parts.param));
  EXPECT_EQ(whole.first, parts.first);
  EXPECT_EQ(whole.second, parts.second);
  EXPECT_TRUE(same_bits(whole.second_scale, parts.second_scale));
}

TEST(QuantisedAdam, ZerosStayZeros) {
  State s(512);
  std::ranges::fill(s.param, 0.0F);
  std::ranges::fill(s.grad, 0.0F);
  quantised_adam_step(s.args(0, 512, 1), 1);
  for (const float x : s.param) EXPECT_EQ(x, 0.0F);
  for (const uint8_t code : s.first) EXPECT_EQ(code, 0);
}

TEST(Factors, AreSumsOfSquaresWhateverTheThreads) {
  testing::for_each_target([](const char*) {
    constexpr int64_t kRows = 300, kColumns = 1100;
    const std::vector<float> grad = random_floats(kRows * kColumns, 5);
    std::vector<double> rows(kRows), columns(kColumns), rows2(kRows), columns2(kColumns);
    factor_sums({kRows, kColumns, grad.data(), 0.5F, rows.data(), columns.data()}, 1);
    factor_sums({kRows, kColumns, grad.data(), 0.5F, rows2.data(), columns2.data()}, 3);
    EXPECT_EQ(rows, rows2);
    EXPECT_EQ(columns, columns2);
    std::vector<double> expected_rows(kRows), expected_columns(kColumns);
    for (int64_t i = 0; i < kRows; ++i) {
      for (int64_t j = 0; j < kColumns; ++j) {
        const double g = 0.5 * grad[i * kColumns + j];
        expected_rows[i] += g * g;
        expected_columns[j] += g * g;
      }
    }
    for (int64_t i = 0; i < kRows; ++i) EXPECT_NEAR(rows[i], expected_rows[i], 1e-12 * expected_rows[i]);
    for (int64_t j = 0; j < kColumns; ++j)
      EXPECT_NEAR(columns[j], expected_columns[j], 1e-12 * expected_columns[j]);
  });
}

// LAMB's direction and sums on every target.
TEST(Lamb, EqualsTheFormula) {
  testing::for_each_target([](const char*) {
    constexpr int64_t kSize = 2500;
    const std::vector<float> param = random_floats(kSize, 1), grad = random_floats(kSize, 2);
    std::vector<float> p = param, m = random_floats(kSize, 3), v = random_floats(kSize, 4, 0, 1);
    const std::vector<float> m0 = m, v0 = v;
    std::vector<double> p2(3), r2(3), expected, direction2(3);
    Lamb args{.n = kSize,
              .param = p.data(),
              .grad = grad.data(),
              .exp_avg = m.data(),
              .exp_avg_sq = v.data(),
              .grad_scale = 0.5F,
              .beta1 = 0.9,
              .beta2 = 0.99,
              .eps = 1e-6,
              .weight_decay = 0.1,
              .step = 7,
              .param_squares = p2.data(),
              .direction_squares = r2.data(),
              .rate = 0.01};
    lamb_moments(args, 2);
    lamb_apply(args, 2);
    for (int64_t i = 0; i < kSize; ++i) {
      const double g = 0.5 * grad[i], first = 0.9 * m0[i] + (1 - 0.9) * g,
                   second = 0.99 * v0[i] + (1 - 0.99) * g * g;
      const double r = first / (1 - std::pow(0.9, 7)) / (std::sqrt(second / (1 - std::pow(0.99, 7))) + 1e-6) +
                       0.1 * param[i];
      direction2[i / 1024] += r * r;
      expected.push_back(param[i] - 0.01 * r);
    }
    EXPECT_LT(testing::worst_error(p, expected), 1e-6);
    for (int b = 0; b < 3; ++b) EXPECT_NEAR(r2[b], direction2[b], 1e-5 * direction2[b]);
  });
}

}  // namespace
}  // namespace furrow::tensor::kernels
