// What products of a number type run on here.  Torch-free.
#pragma once

#include <string>

#include "furrow/base/array.h"

namespace furrow::tensor {

// "float32", "bfloat16 on AVX-512 BF16", "bfloat16 on AMX", "bfloat16 converted to float32: not faster than
// float32 here". Where instructions of the type exist and more than a twentieth of the operations,
// `float32_share` of them, do not use them, it says that too; and with AMX the same of `convolution_share`,
// which are pairs of AVX-512 BF16.
std::string arithmetic_of(DType type, double float32_share, double convolution_share);

// For which numbers of the type have equal bits: instruction_set() of base/process.h, and after a plus what
// multiplies them where that is not part of it: "avx512", for bfloat16 "avx512+bf16", "avx512+amx".
std::string instruction_set_of(DType type);

}  // namespace furrow::tensor
