// Products on tiles against the pseudo-code of their instruction, in software everywhere and on the processor
// where it has them.  (Layouts, edges, epilogues and threads: gemm_half_test.cc.)
#include <bit>
#include <limits>

#include "furrow/tensor/kernels/gemm_half.h"
#include "furrow/tensor/kernels/test_support.h"
#include "furrow/tensor/kernels/tiles.h"

namespace furrow::tensor::kernels {
namespace {

using testing::narrowed;
using testing::random_floats;
using testing::same_bits;

float value_of(bf16 x) { return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }

float flushed(float x) {
  return std::abs(x) < std::numeric_limits<float>::min() ? std::copysign(0.0F, x) : x;
}

// TDPBF16PS for one element, by the letter: `a` and `b` are its numbers along k, 32 at most.
float add_products(float c, const std::vector<float>& a, const std::vector<float>& b) {
  float sums[2] = {};
  for (size_t k = 0; k < a.size(); ++k)
    sums[k % 2] = flushed(std::fma(flushed(a[k]), flushed(b[k]), sums[k % 2]));
  return flushed(flushed(c) + flushed(sums[0] + sums[1]));
}

struct Case {
  int64_t m, n, k;
  std::vector<bf16> a, b;  // row-major

  // As the manual's instruction gives it, over 32 numbers at a time.
  std::vector<float> expected(std::vector<float> c) const {
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        for (int64_t k0 = 0; k0 < k; k0 += 32) {
          std::vector<float> x, y;
          for (int64_t at = k0; at < std::min(k0 + 32, k); ++at) {
            x.push_back(value_of(a[static_cast<size_t>(i * k + at)]));
            y.push_back(value_of(b[static_cast<size_t>(at * n + j)]));
          }
          float& to = c[static_cast<size_t>(i * n + j)];
          to = add_products(to, x, y);
        }
      }
    }
    return c;
  }
  std::vector<float> product(std::vector<float> c, int threads) const {
    HalfGemm<bf16> g{.m = m, .n = n, .k = k, .a = {a.data(), k, 1}, .b = {b.data(), n, 1}};
    g.wide_c = c.data();
    g.ldc = n;
    g.accumulate = true;
    gemm(g, threads);
    return c;
  }
};

// Numbers of all sizes, subnormals, zeros of both signs and, where asked for, such as have no finite product.
std::vector<bf16> of_all_sizes(int64_t count, uint32_t seed, bool infinite) {
  std::mt19937 engine(seed);
  std::vector<bf16> out(static_cast<size_t>(count));
  for (bf16& x : out) {
    x.bits = static_cast<uint16_t>(engine());
    // Exponents around those whose products are the smallest numbers, so that sums meet them too.
    if (engine() % 4 != 0) x.bits = static_cast<uint16_t>((x.bits & 0x8fff) | 0x2000);
    const int exponent = x.bits >> 7 & 255;
    if (exponent > 180 && !infinite) x.bits &= 0x9fff;
    if (exponent == 255 && (x.bits & 127) != 0) x.bits &= 0xff80;  // no NaN: its bits are nobody's promise
  }
  return out;
}

std::vector<Case> cases() {
  std::vector<Case> out;
  for (const auto& [m, n, k] : std::vector<std::array<int64_t, 3>>{
           {1, 1, 1}, {16, 16, 32}, {32, 32, 64}, {5, 7, 31}, {17, 33, 65}, {50, 40, 1201}, {3, 70, 2050}}) {
    const auto seed = static_cast<uint32_t>(m * n + k);
    out.push_back(
        {m, n, k, narrowed<bf16>(random_floats(m * k, seed)), narrowed<bf16>(random_floats(k * n, 2))});
    out.push_back({m, n, k, of_all_sizes(m * k, seed, false), of_all_sizes(k * n, 3, false)});
    if (k < 32) out.push_back({m, n, k, of_all_sizes(m * k, seed, true), of_all_sizes(k * n, 4, true)});
  }
  return out;
}

bool only_nan_differs(const std::vector<float>& got, const std::vector<float>& want) {
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::isnan(got[i]) && std::isnan(want[i])) continue;
    if (std::bit_cast<uint32_t>(got[i]) != std::bit_cast<uint32_t>(want[i])) return false;
  }
  return got.size() == want.size();
}

class TilesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const EmulatedTilesScope emulated;
    if (bf16_products() != Bf16Products::kTiles) GTEST_SKIP() << "emulated tiles need AVX-512";
  }
};

TEST_F(TilesTest, AreThoseOfTheManual) {
  const EmulatedTilesScope emulated;
  for (const Case& c : cases()) {
    const std::vector<float> before = random_floats(c.m * c.n, 5);
    EXPECT_TRUE(only_nan_differs(c.product(before, 2), c.expected(before)))
        << c.m << " " << c.n << " " << c.k;
  }
}

// Subnormals on every way in and out: of C, of an operand, of a product, of the two chains' sum.
TEST_F(TilesTest, SubnormalsAreZero) {
  const EmulatedTilesScope emulated;
  const auto one = [](float c, const std::vector<float>& a, const std::vector<float>& b) {
    const Case x{1, 1, static_cast<int64_t>(a.size()), narrowed<bf16>(a), narrowed<bf16>(b)};
    return x.product({c}, 1)[0];
  };
  const float smallest = std::numeric_limits<float>::min();
  EXPECT_EQ(one(smallest, {1}, {0}), smallest);
  EXPECT_EQ(one(smallest / 2, {1}, {0}), 0);
  EXPECT_EQ(one(0, {smallest}, {1}), smallest);
  EXPECT_EQ(one(0, {smallest / 2}, {2}), 0);
  EXPECT_EQ(one(0, {smallest}, {0.5F}), 0);
  EXPECT_EQ(one(0, {smallest, smallest}, {1, -1.5F}), 0) << "of the chains' sum";
  EXPECT_EQ(one(smallest, {smallest}, {-1.5F}), 0) << "of the last one";
  EXPECT_TRUE(std::signbit(one(-smallest, {smallest}, {0.5F}))) << "what stays is not lost";
  const unsigned mode = __builtin_ia32_stmxcsr();
  EXPECT_EQ(mode & 0x8040, 0U) << "the thread's own mode comes back";
}

// The order of the sums is one of its own: a mere change of where they run changes bits.
TEST_F(TilesTest, HaveOtherBitsThanPairsAndFloat32) {
  const Case& c = cases()[10];
  const std::vector<float> zeros(static_cast<size_t>(c.m * c.n));
  const std::vector<float> native = c.product(zeros, 1);
  const EmulatedTilesScope emulated;
  const std::vector<float> tiles = c.product(zeros, 1);
  EXPECT_EQ(same_bits(tiles, native), tiles_permitted());
}

// Parts of k that are whole tiles go on where the last one ended; others do not have to.
TEST_F(TilesTest, PartsOfWholeTilesAreTheWhole) {
  const EmulatedTilesScope emulated;
  const Case whole{20, 40, 160, narrowed<bf16>(random_floats(20 * 160, 1)),
                   narrowed<bf16>(random_floats(160 * 40, 2))};
  const auto in_parts = [&](int64_t cut) {
    std::vector<float> c(20 * 40);
    HalfGemm<bf16> g{.m = 20, .n = 40, .k = cut, .a = {whole.a.data(), 160, 1}, .b = {whole.b.data(), 40, 1}};
    g.wide_c = c.data();
    g.ldc = 40;
    gemm(g, 1);
    g.a.data += cut;
    g.b.data += cut * 40;
    g.k = 160 - cut;
    g.accumulate = true;
    gemm(g, 1);
    return c;
  };
  const std::vector<float> want = whole.product(std::vector<float>(20 * 40), 1);
  EXPECT_TRUE(same_bits(in_parts(96), want));
  EXPECT_FALSE(same_bits(in_parts(80), want)) << "chains that are cut elsewhere are others";
}

TEST_F(TilesTest, OfTheProcessorAreTheEmulatedOnes) {
  if (!tiles_permitted()) GTEST_SKIP() << "no AMX here, or the system does not permit it";
  for (const Case& c : cases()) {
    const std::vector<float> before = random_floats(c.m * c.n, 5), real = c.product(before, 2);
    const EmulatedTilesScope emulated;
    EXPECT_TRUE(only_nan_differs(real, c.product(before, 2))) << c.m << " " << c.n << " " << c.k;
  }
}

TEST(Tiles, AreEmulatedOnlyInsideTheScope) {
  const Bf16Products here = bf16_products();
  EXPECT_EQ(here == Bf16Products::kTiles, tiles_permitted());
  {
    const EmulatedTilesScope outer;
    {
      const EmulatedTilesScope inner;
    }
    EXPECT_TRUE(tiles_emulated());
  }
  EXPECT_FALSE(tiles_emulated());
  EXPECT_EQ(bf16_products(), here);
}

}  // namespace
}  // namespace furrow::tensor::kernels
