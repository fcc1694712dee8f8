#include "furrow/base/exact_sum.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "furrow/base/error.h"

namespace furrow {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kMax = std::numeric_limits<double>::max();
constexpr double kTiny = std::numeric_limits<double>::denorm_min();

double exact(const std::vector<double>& values) {
  ExactSum sum;
  sum.add_all(std::span<const double>(values));
  return sum.value();
}

TEST(ExactSum, CancelsAndRoundsOnce) {
  EXPECT_EQ(exact({}), 0.0);
  EXPECT_EQ(exact({1e16, 1, -1e16}), 1.0);
  EXPECT_EQ(exact({kMax, kMax, -kMax}), kMax);
  EXPECT_EQ(exact({kMax, kTiny, -kMax}), kTiny);
  EXPECT_EQ(exact({kTiny, kTiny, kTiny}), 3 * kTiny);
  EXPECT_EQ(exact({-1e300, 1, 1e300, -3}), -2.0);
  EXPECT_EQ(exact({0.1, 0.2, -0.3}), 0x1p-55);  // not (0.1 + 0.2) - 0.3
  EXPECT_EQ(exact({kMax, kMax}), kInfinity);
  EXPECT_EQ(exact({-kMax, -kMax}), -kInfinity);
}

TEST(ExactSum, TiesGoToEven) {
  EXPECT_EQ(exact({1, 0x1p-53}), 1.0);
  EXPECT_EQ(exact({1 + 0x1p-52, 0x1p-53}), 1 + 0x1p-51);
  EXPECT_EQ(exact({1, 0x1p-53, kTiny}), 1 + 0x1p-52);
  EXPECT_EQ(exact({1, 0x1p-53, -kTiny}), 1.0);
  EXPECT_EQ(exact({-1, -0x1p-53, -kTiny}), -1 - 0x1p-52);
  EXPECT_EQ(exact({2 - 0x1p-52, 0x1p-53}), 2.0);  // the carry reaches the next binade
}

TEST(ExactSum, SpecialValuesWin) {
  EXPECT_EQ(exact({1, kInfinity}), kInfinity);
  EXPECT_EQ(exact({-kInfinity, 5, -kInfinity}), -kInfinity);
  EXPECT_TRUE(std::isnan(exact({kInfinity, -kInfinity})));
  EXPECT_TRUE(std::isnan(exact({1, NAN, kInfinity})));
}

// Values in a window of 110 bits: their sum is an exact __int128, which the compiler rounds to nearest even.
TEST(ExactSum, EqualsIntegerArithmetic) {
  std::mt19937_64 random(1);
  for (int trial = 0; trial < 300; ++trial) {
    std::vector<double> values;
    __int128 integer = 0;
    const int count = static_cast<int>(random() % 200);
    for (int i = 0; i < count; ++i) {
      const auto mantissa = static_cast<int64_t>(random()) >> 11;
      const int shift = static_cast<int>(random() % 55);
      values.push_back(std::ldexp(static_cast<double>(mantissa), shift - 60));
      integer += static_cast<__int128>(mantissa) << shift;
    }
    EXPECT_EQ(exact(values), std::ldexp(static_cast<double>(integer), -60)) << "trial " << trial;
  }
}

std::vector<double> wild(size_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<double> values(count);
  for (double& v : values) {
    v = std::ldexp(static_cast<double>(static_cast<int64_t>(random())),
                   static_cast<int>(random() % 1800) - 1000);
  }
  return values;
}

TEST(ExactSum, OrderAndGroupingDoNotMatter) {
  std::vector<double> values = wild(1000, 2);
  const double expected = exact(values);
  ExactSum reference;
  reference.add_all(std::span<const double>(values));
  std::mt19937_64 random(3);
  for (int trial = 0; trial < 20; ++trial) {
    std::shuffle(values.begin(), values.end(), random);
    const size_t cut = random() % values.size();
    ExactSum left, right;
    left.add_all(std::span<const double>(values).first(cut));
    right.add_all(std::span<const double>(values).subspan(cut));
    right.add(left);
    EXPECT_EQ(right.value(), expected);
    EXPECT_EQ(right.limbs(), reference.limbs());
  }
  values[500] = std::nextafter(values[500], kInfinity);
  ExactSum changed;
  changed.add_all(std::span<const double>(values));
  EXPECT_NE(changed.limbs(), reference.limbs());
}

TEST(ExactSum, FloatPathsAgreeWithAddingOneByOne) {
  std::mt19937_64 random(4);
  for (const size_t count : {0, 1, 7, 511, 512, 5000, 300'000}) {
    std::vector<float> values(count);
    for (float& v : values) {
      v = std::ldexp(static_cast<float>(static_cast<int32_t>(random())),
                     static_cast<int>(random() % 200) - 140);
    }
    ExactSum one_by_one, squares_one_by_one, fast, squares;
    for (const float v : values) {
      one_by_one.add(v);
      squares_one_by_one.add(static_cast<double>(v) * v);
    }
    fast.add_all(std::span<const float>(values));
    squares.add_squares(values);
    EXPECT_EQ(fast.limbs(), one_by_one.limbs()) << count;
    EXPECT_EQ(squares.limbs(), squares_one_by_one.limbs()) << count;
  }
}

TEST(ExactSum, FloatPathsKeepSpecialsAndExtremes) {
  constexpr float kBig = std::numeric_limits<float>::max();
  std::vector<float> values(1000, kBig);
  values[3] = std::numeric_limits<float>::denorm_min();
  ExactSum sum, squares;
  sum.add_all(std::span<const float>(values));
  squares.add_squares(values);
  EXPECT_EQ(sum.value(), 999.0 * kBig);
  EXPECT_EQ(squares.value(), 999.0 * (static_cast<double>(kBig) * kBig));
  values[700] = -std::numeric_limits<float>::infinity();
  ExactSum infinite, infinite_squares;
  infinite.add_all(std::span<const float>(values));
  infinite_squares.add_squares(values);
  EXPECT_EQ(infinite.value(), -kInfinity);
  EXPECT_EQ(infinite_squares.value(), kInfinity);
}

TEST(ExactSum, LimbsRoundTripAndAreChecked) {
  for (const double value : {0.0, -1.5, 1e300, kInfinity, -kInfinity}) {
    ExactSum sum;
    sum.add(value);
    sum.add(0.25);
    const ExactSum copy = ExactSum::from_limbs(sum.limbs());
    EXPECT_EQ(copy.value(), sum.value());
    EXPECT_EQ(copy.limbs(), sum.limbs());
  }
  ExactSum nan;
  nan.add(NAN);
  EXPECT_TRUE(std::isnan(ExactSum::from_limbs(nan.limbs()).value()));
  auto damaged = ExactSum().limbs();
  damaged[4] = int64_t{1} << 40;
  EXPECT_THROW(ExactSum::from_limbs(damaged), Error);
}

}  // namespace
}  // namespace furrow
