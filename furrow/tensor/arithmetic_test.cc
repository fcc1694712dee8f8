#include "furrow/tensor/arithmetic.h"

#include <gtest/gtest.h>

#include "furrow/tensor/kernels/gemm_half.h"

namespace furrow::tensor {
namespace {

TEST(Arithmetic, SaysWhatIsNotFaster) {
  EXPECT_EQ(arithmetic_of(DType::kF32, 1), "float32");
  EXPECT_EQ(arithmetic_of(DType::kF16, 0), "float16 converted to float32: not faster than float32 here");
  const bool fast = kernels::has_bf16_products();
  const std::string converted = "bfloat16 converted to float32: not faster than float32 here";
  EXPECT_EQ(arithmetic_of(DType::kBF16, 0.05), fast ? "bfloat16 on AVX-512 BF16" : converted);
  EXPECT_EQ(
      arithmetic_of(DType::kBF16, 0.934),
      fast ? "bfloat16 on AVX-512 BF16, but 93 % of the operations in float32: not faster there" : converted);
}

}  // namespace
}  // namespace furrow::tensor
