#include "furrow/tensor/arithmetic.h"

#include <fmt/format.h>

#include "furrow/base/process.h"
#include "furrow/tensor/kernels/gemm_half.h"
#include "furrow/tensor/kernels/pairs.h"

namespace furrow::tensor {
namespace {

using kernels::Bf16Products;

constexpr double kWorthAWord = 0.05;

Bf16Products products_of(DType type) {
  return type == DType::kBF16 ? kernels::bf16_products() : Bf16Products::kConverted;
}

}  // namespace

std::string arithmetic_of(DType type, double float32_share, double convolution_share) {
  const std::string name(to_string(type));
  if (type == DType::kF32) return name;
  const Bf16Products products = products_of(type);
  if (products == Bf16Products::kConverted)
    return name + " converted to float32: not faster than float32 here";
  const bool tiles = products == Bf16Products::kTiles;
  std::string text = name + (tiles ? " on AMX" : " on AVX-512 BF16");
  if (tiles && convolution_share > kWorthAWord)
    text += fmt::format(", convolutions ({:.0f} % of the operations) {}", 100 * convolution_share,
                        kernels::usable_pairs() ? "on AVX-512 BF16" : "converted to float32");
  if (float32_share > kWorthAWord)
    text += fmt::format(", but {:.0f} % of the operations in float32: not faster there", 100 * float32_share);
  return text;
}

std::string instruction_set_of(DType type) {
  switch (products_of(type)) {
    case Bf16Products::kTiles:
      return instruction_set() + "+amx";
    case Bf16Products::kPairs:
      return instruction_set() + "+bf16";
    case Bf16Products::kConverted:
      break;
  }
  return instruction_set();
}

}  // namespace furrow::tensor
