// What products of a number type run on here.  Torch-free.
#pragma once

#include <string>

#include "furrow/base/array.h"

namespace furrow::tensor {

// "float32", "bfloat16 on AVX-512 BF16", "bfloat16 converted to float32: not faster than float32 here". Where
// instructions of the type exist and more than a twentieth of the operations, `float32_share` of them, do not
// use them, it says that too.
std::string arithmetic_of(DType type, double float32_share);

}  // namespace furrow::tensor
