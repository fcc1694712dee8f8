// Terms of a reduction, on any device, by libtorch's own operations: the rules of comm/collective.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace furrow::tensor {

enum class Combination : uint8_t { kSum, kProduct, kMinimum, kMaximum };

// out = a (+) b, of dense tensors of one type and size; `out` may be either.  16-bit results are formed in
// float32 and rounded to nearest even, integers wrap; a NaN wins where the least or largest is looked for.
void combine(Combination how, const at::Tensor& a, const at::Tensor& b, const at::Tensor& out);

// x / by, in place: one multiplication by 1/by, which is rounded to the type (of 16 bits: to float32); of
// integers a division, rounding towards zero.
void divide(const at::Tensor& x, int by);

}  // namespace furrow::tensor
