// What products of a number type run on here.  Torch-free.
#pragma once

#include <string>

#include "furrow/base/array.h"

namespace furrow::tensor {

// "float32", "bfloat16 on AVX-512 BF16", "bfloat16 converted to float32: not faster than float32 here".
std::string arithmetic_of(DType type);

}  // namespace furrow::tensor
