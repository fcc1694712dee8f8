#include "furrow/tensor/kernels/gemm_half.h"

#include <bit>

#include "furrow/tensor/kernels/test_support.h"
#include "furrow/tensor/kernels/tiles.h"

namespace furrow::tensor::kernels {
namespace {

using testing::narrowed;
using testing::random_floats;
using testing::same_bits;
using testing::value_of;

float value_of(f16 x) {
  const int exponent = x.bits >> 10 & 31, fraction = x.bits & 1023;
  const float size = exponent == 0    ? std::ldexp(static_cast<float>(fraction), -24)
                     : exponent == 31 ? (fraction != 0 ? NAN : INFINITY)
                                      : std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
  return (x.bits & 0x8000) != 0 ? -size : size;
}

template <class H>
std::vector<H> transposed(const std::vector<H>& x, int64_t rows, int64_t columns) {
  std::vector<H> out(x.size());
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j)
      out[static_cast<size_t>(j * rows + i)] = x[static_cast<size_t>(i * columns + j)];
  }
  return out;
}

template <class H>
struct Case {
  int64_t m, n, k;
  std::vector<H> a, b;  // A [m, k], B [k, n], row-major
  Case(int64_t m, int64_t n, int64_t k)
      : m(m), n(n), k(k), a(narrowed<H>(random_floats(m * k, 1))), b(narrowed<H>(random_floats(k * n, 2))) {}

  std::vector<double> product() const {
    std::vector<double> out(static_cast<size_t>(m * n));
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t x = 0; x < k; ++x) {
        for (int64_t j = 0; j < n; ++j)
          out[static_cast<size_t>(i * n + j)] +=
              static_cast<double>(value_of(a[static_cast<size_t>(i * k + x)])) *
              value_of(b[static_cast<size_t>(x * n + j)]);
      }
    }
    return out;
  }

  HalfGemm<H> call() const {
    HalfGemm<H> g;
    g.m = m;
    g.n = n;
    g.k = k;
    g.a = {a.data(), k, 1};
    g.b = {b.data(), n, 1};
    g.ldc = n;
    return g;
  }
  std::vector<float> run(HalfGemm<H> g, int threads) const {
    std::vector<float> out(static_cast<size_t>(m * n), NAN);
    g.wide_c = out.data();
    gemm(g, threads);
    return out;
  }
};

template <class H>
std::vector<Case<H>> cases() {
  return {{1, 1, 1},     {3, 5, 7},      {14, 32, 64},    {15, 33, 65},  {29, 70, 513}, {128, 10, 2050},
          {64, 120, 84}, {200, 65, 128}, {300, 17, 1201}, {2, 400, 300}, {17, 3, 9000}, {65, 200, 31}};
}

// A number type, and what its products run on.
template <class H>
struct Native {
  using Number = H;
};
struct OnTiles {
  using Number = bf16;
  const TilesScope scope{Tiles::kEmulated};
};
template <class Way>
class HalfGemmTest : public ::testing::Test {
 protected:
  using H = typename Way::Number;
  const Way way_ = {};
};
using Ways = ::testing::Types<Native<bf16>, OnTiles, Native<f16>>;
TYPED_TEST_SUITE(HalfGemmTest, Ways);

TYPED_TEST(HalfGemmTest, EqualsTheDefinitionInEveryLayoutAndOnThreads) {
  using H = typename TestFixture::H;
  for (const auto& c : cases<H>()) {
    const std::vector<double> want = c.product();
    const auto at = transposed(c.a, c.m, c.k), bt = transposed(c.b, c.k, c.n);
    testing::for_each_target([&](const char*) {
      const std::vector<float> plain = c.run(c.call(), 2);
      EXPECT_LT(testing::worst_error(plain, want), 1e-6 * std::sqrt(static_cast<double>(c.k + 1)))
          << c.m << " " << c.n << " " << c.k;
      for (const int layout : {1, 2, 3}) {
        HalfGemm<H> g = c.call();
        if ((layout & 1) != 0) g.a = {at.data(), 1, c.m};
        if ((layout & 2) != 0) g.b = {bt.data(), 1, c.k};
        EXPECT_TRUE(same_bits(c.run(g, 1), plain)) << c.m << " " << c.n << " " << c.k << " layout " << layout;
      }
    });
  }
}

// A change of one unit in the last place of one operand is seen: the comparison above can fail.
TYPED_TEST(HalfGemmTest, AChangedBitIsSeen) {
  using H = typename TestFixture::H;
  Case<H> c(29, 70, 513);
  const std::vector<float> before = c.run(c.call(), 1);
  c.a[600].bits ^= 1;
  EXPECT_FALSE(same_bits(c.run(c.call(), 1), before));
}

// Rows computed apart have the bits of rows computed together.
TYPED_TEST(HalfGemmTest, OtherRowsDoNotMatter) {
  using H = typename TestFixture::H;
  const Case<H> c(31, 40, 129);
  testing::for_each_target([&](const char*) {
    const std::vector<float> all = c.run(c.call(), 1);
    for (const int64_t row : {0, 13, 14, 30}) {
      HalfGemm<H> g = c.call();
      g.m = 1;
      g.a.data += row * c.k;
      std::vector<float> one = c.run(g, 1);
      one.resize(static_cast<size_t>(c.n));
      const auto begin = all.begin() + static_cast<std::ptrdiff_t>(row * c.n);
      EXPECT_TRUE(same_bits(one, {begin, begin + static_cast<std::ptrdiff_t>(c.n)})) << row;
    }
  });
}

// Bias and activation come before the one rounding of a 16-bit result.
TYPED_TEST(HalfGemmTest, AResultOf16BitsIsTheWideOneRounded) {
  using H = typename TestFixture::H;
  for (const auto& c : cases<H>()) {
    const auto bias = narrowed<H>(random_floats(c.n, 3));
    testing::for_each_target([&](const char*) {
      for (const Activation activation : {Activation::kNone, Activation::kRelu, Activation::kGelu}) {
        HalfGemm<H> g = c.call();
        g.bias = bias.data();
        g.activation = activation;
        std::vector<H> slope(static_cast<size_t>(c.m * c.n)), again(slope.size()), out(slope.size());
        g.slope = slope.data();
        const auto want = narrowed<H>(c.run(g, 1));
        g.slope = again.data();
        g.c = out.data();
        gemm(g, 2);
        if (c.k > 8192) continue;  // the sums of gemm.h then
        EXPECT_TRUE(same_bits(out, want)) << c.m << " " << c.n << " " << c.k;
        EXPECT_TRUE(activation != Activation::kGelu || same_bits(again, slope));
      }
    });
  }
}

// Every one of the 65,536 patterns survives; values between two round to the nearer, ties to even.
TYPED_TEST(HalfGemmTest, ConversionsRoundToNearestEven) {
  using H = typename TestFixture::H;
  std::vector<H> all(1 << 16);
  for (size_t i = 0; i < all.size(); ++i) all[i].bits = static_cast<uint16_t>(i);
  const auto n = static_cast<int64_t>(all.size());
  testing::for_each_target([&](const char*) {
    std::vector<float> wide(all.size());
    convert(n, all.data(), wide.data(), 2);
    const std::vector<H> back = narrowed<H>(wide);
    for (size_t i = 0; i < all.size(); ++i) {
      const float exact = value_of(all[i]);
      if (std::isnan(exact)) {
        ASSERT_TRUE(std::isnan(wide[i]) && std::isnan(value_of(back[i]))) << i;
        continue;
      }
      ASSERT_EQ(std::bit_cast<uint32_t>(wide[i]), std::bit_cast<uint32_t>(exact)) << i;
      ASSERT_EQ(back[i].bits, all[i].bits) << i;
      const float next = value_of(H{static_cast<uint16_t>(i + 1)});
      if (!std::isfinite(exact) || !std::isfinite(next) || (i & 0x7fff) == 0x7fff) continue;
      const float middle = exact + (next - exact) / 2, above = std::nextafter(middle, next);
      const auto rounded = narrowed<H>({middle, above});
      ASSERT_EQ(rounded[0].bits, all[i].bits + (i & 1)) << i;
      ASSERT_EQ(rounded[1].bits, all[i].bits + 1) << i;
    }
  });
}

}  // namespace
}  // namespace furrow::tensor::kernels
