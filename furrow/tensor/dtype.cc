#include <ATen/ATen.h>
#include <fmt/format.h>

#include "furrow/base/error.h"
#include "furrow/tensor/dtype_torch.h"

namespace furrow::tensor {
namespace {

struct Pair {
  DType ours;
  at::ScalarType theirs;
};

constexpr Pair kPairs[] = {
    {DType::kF64, at::kDouble},    {DType::kF32, at::kFloat}, {DType::kF16, at::kHalf},
    {DType::kBF16, at::kBFloat16}, {DType::kI64, at::kLong},  {DType::kI32, at::kInt},
    {DType::kI16, at::kShort},     {DType::kI8, at::kChar},   {DType::kU8, at::kByte},
    {DType::kBool, at::kBool},
};

}  // namespace

at::ScalarType scalar_type(DType dtype) {
  for (const Pair& pair : kPairs) {
    if (pair.ours == dtype) return pair.theirs;
  }
  throw Error(ErrorCode::kInternal, fmt::format("libtorch has no {}", to_string(dtype)));
}

DType dtype_of(at::ScalarType type) {
  for (const Pair& pair : kPairs) {
    if (pair.theirs == type) return pair.ours;
  }
  throw Error(
      ErrorCode::kInvalidArgument,
      fmt::format("no array holds libtorch's {}: convert it to float32 or int64", c10::toString(type)));
}

at::Tensor from_array(const ArrayView& array) {
  return at::from_blob(array.bytes.data(), array.shape, at::TensorOptions().dtype(scalar_type(array.dtype)));
}

ArrayView to_array(const at::Tensor& tensor) {
  FURROW_CHECK(tensor.is_contiguous() && tensor.device().is_cpu(), "an array is dense and on the CPU");
  ArrayView array;
  array.dtype = dtype_of(tensor.scalar_type());
  array.shape = tensor.sizes().vec();
  array.bytes = {static_cast<std::byte*>(tensor.data_ptr()), tensor.nbytes()};
  return array;
}

}  // namespace furrow::tensor
