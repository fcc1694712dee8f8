#include "furrow/comm/reduce.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "furrow/comm/conformance_reference.h"
#include "furrow/comm/half.h"

namespace furrow::comm {
namespace {

// The compiler's own conversions, in software or hardware, are the oracle.
#ifdef __FLT16_MAX__
TEST(Half, EveryFloat16ConvertsAsTheCompilerDoes) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = std::bit_cast<_Float16>(static_cast<uint16_t>(bits));
    const auto expected = static_cast<float>(half);
    const float actual = f16_to_float(static_cast<uint16_t>(bits));
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(actual)) << bits;
      continue;
    }
    EXPECT_EQ(std::bit_cast<uint32_t>(actual), std::bit_cast<uint32_t>(expected)) << bits;
    EXPECT_EQ(float_to_f16(expected), bits);
  }
}

TEST(Half, FloatsRoundToTheNearestEvenFloat16) {
  for (uint64_t i = 0; i < 4'000'000; ++i) {
    const auto bits = static_cast<uint32_t>(i * 1073 + (i << 9));
    const auto x = std::bit_cast<float>(bits);
    if (std::isnan(x)) continue;
    EXPECT_EQ(float_to_f16(x), std::bit_cast<uint16_t>(static_cast<_Float16>(x))) << x;
  }
}
#endif

TEST(Half, BFloat16RoundsToNearestEven) {
  EXPECT_EQ(float_to_bf16(1.0F), 0x3f80);
  EXPECT_EQ(float_to_bf16(std::bit_cast<float>(0x3f808000U)), 0x3f80);  // half way: even
  EXPECT_EQ(float_to_bf16(std::bit_cast<float>(0x3f818000U)), 0x3f82);
  EXPECT_EQ(float_to_bf16(std::bit_cast<float>(0x3f808001U)), 0x3f81);
  EXPECT_EQ(float_to_bf16(std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(std::bit_cast<float>(0x7f800001U)))));
}

// Every data type and reduction, each number of elements around the vector sizes, against scalars.
TEST(Reduce, CombineEqualsTheReference) {
  for (const DType dtype :
       {DType::kF64, DType::kF32, DType::kF16, DType::kBF16, DType::kI64, DType::kI32, DType::kU8}) {
    for (int r = 0; r < kReductions; ++r) {
      for (const int64_t n : {1, 2, 7, 8, 15, 16, 17, 31, 33, 64, 100, 1000}) {
        reference::Problem p;
        p.dtype = dtype;
        p.reduction = static_cast<Reduction>(r);
        for (uint64_t rank = 0; rank < 2; ++rank) {
          p.in.push_back(reference::make_input(dtype, p.reduction, n, rank + static_cast<uint64_t>(n)));
        }
        reference::Bytes out(p.in[0].size());
        const std::byte* const sources[] = {p.in[0].data(), p.in[1].data()};
        std::byte* const destinations[] = {out.data()};
        reduce_tree({dtype, p.reduction, 2}, n, sources, destinations);
        const auto expected = reference::outputs(p)[0];
        EXPECT_TRUE(reference::same(dtype, out.data(), expected.data(), n))
            << to_string(dtype) << " " << to_string(p.reduction) << " " << n;
      }
    }
  }
}

// Up to three destinations, which may be the sources.
TEST(Reduce, EveryDestinationGetsTheSum) {
  constexpr int64_t kElements = 4099;
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kF16, DType::kBF16, DType::kI32, DType::kU8}) {
    for (const size_t ranks : {1, 2, 3}) {
      for (int r = 0; r < kReductions; ++r) {
        reference::Problem p;
        p.dtype = dtype;
        p.reduction = static_cast<Reduction>(r);
        std::vector<const std::byte*> sources;
        std::vector<std::byte*> destinations;
        for (uint64_t rank = 0; rank < ranks; ++rank)
          p.in.push_back(reference::make_input(dtype, p.reduction, kElements, 7 * rank + ranks));
        std::vector<reference::Bytes> buffers = p.in;
        for (reference::Bytes& buffer : buffers) {
          sources.push_back(buffer.data());
          destinations.push_back(buffer.data());
        }
        reduce_tree({dtype, p.reduction, static_cast<int>(ranks)}, kElements, sources, destinations);
        const auto expected = reference::outputs(p)[0];
        for (const reference::Bytes& buffer : buffers) {
          EXPECT_TRUE(reference::same(dtype, buffer.data(), expected.data(), kElements))
              << to_string(dtype) << " " << to_string(p.reduction) << " " << ranks;
        }
      }
    }
  }
}

TEST(Reduce, TreeSplitsAtTheLargestPowerOfTwo) {
  EXPECT_EQ(tree_split(0, 2), 1);
  EXPECT_EQ(tree_split(0, 3), 2);
  EXPECT_EQ(tree_split(0, 4), 2);
  EXPECT_EQ(tree_split(3, 8), 7);
}

}  // namespace
}  // namespace furrow::comm
