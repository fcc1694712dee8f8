#include "furrow/base/array.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "furrow/base/error.h"
#include "furrow/base/names.h"

namespace furrow {
namespace {

struct DTypeRow {
  DType dtype;
  size_t size;
  std::string_view name;
  std::string_view safetensors;
};

// In the order of the enum.
constexpr DTypeRow kDTypes[] = {
    {DType::kF64, 8, "float64", "F64"}, {DType::kF32, 4, "float32", "F32"},
    {DType::kF16, 2, "float16", "F16"}, {DType::kBF16, 2, "bfloat16", "BF16"},
    {DType::kI64, 8, "int64", "I64"},   {DType::kI32, 4, "int32", "I32"},
    {DType::kI16, 2, "int16", "I16"},   {DType::kI8, 1, "int8", "I8"},
    {DType::kU8, 1, "uint8", "U8"},     {DType::kBool, 1, "bool", "BOOL"},
};

const DTypeRow& row(DType dtype) {
  const auto index = static_cast<size_t>(dtype);
  FURROW_CHECK(index < std::size(kDTypes), "dtype out of its enum");
  return kDTypes[index];
}

size_t checked_bytes(DType dtype, const Shape& shape) {
  for (int64_t dim : shape) {
    FURROW_CHECK(dim >= 0, fmt::format("an array needs a concrete shape, not {}", to_string(shape)));
  }
  size_t bytes = dtype_size(dtype);
  for (int64_t dim : shape) {
    if (__builtin_mul_overflow(bytes, static_cast<size_t>(dim), &bytes)) {
      throw Error(ErrorCode::kResourceExhausted,
                  fmt::format("an array of shape {} does not fit into memory", to_string(shape)));
    }
  }
  return bytes;
}

}  // namespace

size_t dtype_size(DType dtype) { return row(dtype).size; }
std::string_view to_string(DType dtype) { return row(dtype).name; }
std::string_view safetensors_name(DType dtype) { return row(dtype).safetensors; }

DType parse_dtype(std::string_view name) {
  for (const DTypeRow& candidate : kDTypes) {
    if (name == candidate.name || name == candidate.safetensors) return candidate.dtype;
  }
  std::vector<std::string> known;
  for (const DTypeRow& candidate : kDTypes) known.emplace_back(candidate.name);
  throw Error(ErrorCode::kInvalidArgument, unknown_name_message("dtype", name, known));
}

int64_t num_elements(std::span<const int64_t> shape) {
  int64_t count = 1;
  for (int64_t dim : shape) {
    FURROW_CHECK(dim >= 0, "a symbolic dim has no number of elements");
    FURROW_CHECK(!__builtin_mul_overflow(count, dim, &count), "the number of elements overflows int64");
  }
  return count;
}

std::string to_string(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

Array::Array(DType dtype, Shape shape, MemoryKind kind) : buffer_(checked_bytes(dtype, shape), kind) {
  view_.dtype = dtype;
  view_.shape = std::move(shape);
  view_.bytes = {buffer_.data(), buffer_.size()};
}

}  // namespace furrow
