#include "furrow/tensor/arithmetic.h"

#include <fmt/format.h>

#include "furrow/tensor/kernels/gemm_half.h"

namespace furrow::tensor {

std::string arithmetic_of(DType type, double float32_share) {
  std::string name(to_string(type));
  if (type == DType::kF32) return name;
  if (type == DType::kBF16 && kernels::has_bf16_products()) {
    name += " on AVX-512 BF16";
    if (float32_share <= 0.05) return name;
    return name +
           fmt::format(", but {:.0f} % of the operations in float32: not faster there", 100 * float32_share);
  }
  return name + " converted to float32: not faster than float32 here";
}

}  // namespace furrow::tensor
