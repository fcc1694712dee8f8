#include "furrow/tensor/arithmetic.h"

#include "furrow/tensor/kernels/gemm_half.h"

namespace furrow::tensor {

std::string arithmetic_of(DType type) {
  std::string name(to_string(type));
  if (type == DType::kF32) return name;
  if (type == DType::kBF16 && kernels::has_bf16_products()) return name + " on AVX-512 BF16";
  return name + " converted to float32: not faster than float32 here";
}

}  // namespace furrow::tensor
