#include "furrow/tensor/arithmetic.h"

#include <gtest/gtest.h>

#include "furrow/base/process.h"
#include "furrow/tensor/kernels/gemm_half.h"
#include "furrow/tensor/kernels/pairs.h"
#include "furrow/tensor/kernels/tiles.h"

namespace furrow::tensor {
namespace {

using kernels::Bf16Products;
using kernels::PairsScope;
using kernels::Tiles;
using kernels::TilesScope;

TEST(Arithmetic, SaysWhatIsNotFaster) {
  const TilesScope none(Tiles::kNone);
  EXPECT_EQ(arithmetic_of(DType::kF32, 1, 0), "float32");
  EXPECT_EQ(arithmetic_of(DType::kF16, 0, 0), "float16 converted to float32: not faster than float32 here");
  const bool fast = kernels::bf16_products() == Bf16Products::kPairs;
  const std::string converted = "bfloat16 converted to float32: not faster than float32 here";
  EXPECT_EQ(arithmetic_of(DType::kBF16, 0.05, 0.9), fast ? "bfloat16 on AVX-512 BF16" : converted);
  EXPECT_EQ(
      arithmetic_of(DType::kBF16, 0.934, 0),
      fast ? "bfloat16 on AVX-512 BF16, but 93 % of the operations in float32: not faster there" : converted);
}

TEST(Arithmetic, SaysWhatRunsOnTiles) {
  const TilesScope emulated(Tiles::kEmulated);
  if (kernels::bf16_products() != Bf16Products::kTiles) GTEST_SKIP() << "emulated tiles need AVX-512";
  EXPECT_EQ(arithmetic_of(DType::kBF16, 0.05, 0.05), "bfloat16 on AMX");
  const PairsScope converted(false);
  EXPECT_EQ(arithmetic_of(DType::kBF16, 0.2, 0.7),
            "bfloat16 on AMX, convolutions (70 % of the operations) converted to float32, but 20 % of the "
            "operations "
            "in float32: not faster there");
  if (!kernels::has_pairs()) return;
  const PairsScope pairs(true);
  EXPECT_EQ(arithmetic_of(DType::kBF16, 0, 0.7),
            "bfloat16 on AMX, convolutions (70 % of the operations) on AVX-512 BF16");
  EXPECT_EQ(arithmetic_of(DType::kF16, 0, 0), "float16 converted to float32: not faster than float32 here");
}

// Sets of bits have names of their own; a type that needs no other instructions keeps the machine's.
TEST(Arithmetic, SetsOfBitsHaveNames) {
  const auto with = [](Tiles tiles, DType type) {
    const TilesScope scope(tiles);
    return instruction_set_of(type);
  };
  for (const Tiles tiles : {Tiles::kNone, Tiles::kEmulated}) {
    EXPECT_EQ(with(tiles, DType::kF32), instruction_set());
    EXPECT_EQ(with(tiles, DType::kF16), instruction_set());
  }
  if (instruction_set() != "avx512") GTEST_SKIP() << "no instructions for bfloat16 here";
  EXPECT_EQ(with(Tiles::kEmulated, DType::kBF16), "avx512+amx");
  const TilesScope none(Tiles::kNone);
  EXPECT_EQ(instruction_set_of(DType::kBF16),
            kernels::bf16_products() == Bf16Products::kPairs ? "avx512+bf16" : "avx512");
}

}  // namespace
}  // namespace furrow::tensor
