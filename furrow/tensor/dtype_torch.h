// Element types and arrays of base, as libtorch names them.
#pragma once

#include <ATen/core/Tensor.h>

#include "furrow/base/array.h"

namespace furrow::tensor {

at::ScalarType scalar_type(DType dtype);
DType dtype_of(at::ScalarType type);  // Error{invalid_argument} for a type that base does not have

// A tensor over the array's memory, which must outlive it.
at::Tensor from_array(const ArrayView& array);

// The other way; `tensor` must be dense, on the CPU, and outlive the view.
ArrayView to_array(const at::Tensor& tensor);

}  // namespace furrow::tensor
