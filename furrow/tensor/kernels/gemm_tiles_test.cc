// Products on tiles against the pseudo-code of their instruction, in software everywhere and on the processor
// where it has them.  (Layouts, edges, epilogues and threads: gemm_half_test.cc.)
#include <bit>
#include <limits>

#include "furrow/tensor/kernels/gemm_half.h"
#include "furrow/tensor/kernels/test_support.h"
#include "furrow/tensor/kernels/tile_trap.h"
#include "furrow/tensor/kernels/tiles.h"

namespace furrow::tensor::kernels {
namespace {

using testing::narrowed;
using testing::random_floats;
using testing::same_bits;
using testing::value_of;

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
          to = testing::tile_products(to, x.data(), y.data(), x.size());
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

Case of_plain_numbers(int64_t m, int64_t n, int64_t k) {
  return {m, n, k, narrowed<bf16>(random_floats(m * k, 1)), narrowed<bf16>(random_floats(k * n, 2))};
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
    const TilesScope emulated(Tiles::kEmulated);
    if (bf16_products() != Bf16Products::kTiles) GTEST_SKIP() << "emulated tiles need AVX-512";
  }
};

TEST_F(TilesTest, AreThoseOfTheManual) {
  const TilesScope emulated(Tiles::kEmulated);
  for (const Case& c : cases()) {
    const std::vector<float> before = random_floats(c.m * c.n, 5);
    EXPECT_TRUE(only_nan_differs(c.product(before, 2), c.expected(before)))
        << c.m << " " << c.n << " " << c.k;
  }
}

// Subnormals on every way in and out: of C, of an operand, of a product, of the two chains' sum.
TEST_F(TilesTest, SubnormalsAreZero) {
  const TilesScope emulated(Tiles::kEmulated);
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
  const Case c = of_plain_numbers(17, 33, 65);
  const auto on = [&](Tiles tiles) {
    const TilesScope scope(tiles);
    return c.product(std::vector<float>(17 * 33), 1);
  };
  EXPECT_FALSE(same_bits(on(Tiles::kEmulated), on(Tiles::kNone)));
}

// Parts of k that are whole tiles go on where the last one ended; others do not have to.
TEST_F(TilesTest, PartsOfWholeTilesAreTheWhole) {
  const TilesScope emulated(Tiles::kEmulated);
  const Case whole = of_plain_numbers(20, 40, 160);
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

// The instructions themselves, on the processor where it has them and else, each one, in software.
TEST_F(TilesTest, InstructionsGiveWhatTheEmulationDoes) {
  const bool here = usable_tiles() == Tiles::kProcessor;
  const testing::TileTrap trap;
  for (const Case& c : cases()) {
    const std::vector<float> before = random_floats(c.m * c.n, 5);
    const auto on = [&](Tiles tiles) {
      const TilesScope scope(tiles);
      return c.product(before, 2);
    };
    EXPECT_TRUE(only_nan_differs(on(Tiles::kProcessor), on(Tiles::kEmulated)))
        << c.m << " " << c.n << " " << c.k;
  }
  EXPECT_EQ(testing::TileTrap::carried_out() > 0, !here);
}

TEST(Tiles, AreThoseOfTheScope) {
  const Tiles here = usable_tiles();
  {
    const TilesScope outer(Tiles::kEmulated);
    {
      const TilesScope inner(Tiles::kNone);
      EXPECT_EQ(usable_tiles(), Tiles::kNone);
    }
    EXPECT_EQ(usable_tiles(), Tiles::kEmulated);
  }
  EXPECT_EQ(usable_tiles(), here);
  EXPECT_NE(here, Tiles::kEmulated) << "never but in a test";
}

}  // namespace
}  // namespace furrow::tensor::kernels
