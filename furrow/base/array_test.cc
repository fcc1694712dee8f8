#include "furrow/base/array.h"

#include <gtest/gtest.h>

#include "furrow/base/error.h"

namespace furrow {
namespace {

TEST(DType, NamesRoundTrip) {
  for (int i = 0; i <= static_cast<int>(DType::kBool); ++i) {
    const auto dtype = static_cast<DType>(i);
    EXPECT_EQ(parse_dtype(to_string(dtype)), dtype);
    EXPECT_EQ(parse_dtype(safetensors_name(dtype)), dtype);
  }
  EXPECT_EQ(dtype_size(DType::kF64), 8u);
  EXPECT_EQ(dtype_size(DType::kBF16), 2u);
  EXPECT_EQ(dtype_size(DType::kBool), 1u);
}

TEST(DType, UnknownNameListsTheKnown) {
  try {
    parse_dtype("flaot32");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_NE(std::string(error.what()).find("did you mean 'float32'"), std::string::npos) << error.what();
  }
}

TEST(Shape, CountsAndPrints) {
  EXPECT_EQ(num_elements(Shape{}), 1);
  EXPECT_EQ(num_elements(Shape{2, 0, 3}), 0);
  EXPECT_EQ(num_elements(Shape{2, 3, 4}), 24);
  EXPECT_EQ(to_string(Shape{64, 1, 28}), "[64, 1, 28]");
  EXPECT_EQ(to_string(Shape{}), "[]");
  EXPECT_THROW(num_elements(Shape{-1, 2}), Error);
  EXPECT_THROW(num_elements(Shape{int64_t{1} << 40, int64_t{1} << 40}), Error);
}

TEST(Array, OwnsAlignedCountedMemory) {
  const int64_t before = memory_usage(MemoryKind::kData).current_bytes;
  {
    Array array(DType::kF32, {3, 5}, MemoryKind::kData);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(array.bytes().data()) % 64, 0u);
    EXPECT_EQ(array.as<float>().size(), 15u);
    EXPECT_EQ(memory_usage(MemoryKind::kData).current_bytes, before + 60);
    array.as<float>()[14] = 2.5f;
    const Array moved = std::move(array);
    EXPECT_EQ(moved.as<float>()[14], 2.5f);
  }
  EXPECT_EQ(memory_usage(MemoryKind::kData).current_bytes, before);
}

TEST(Array, ScalarAndEmptyAndTooLarge) {
  EXPECT_EQ(Array(DType::kI64, {}).bytes().size(), 8u);
  EXPECT_EQ(Array(DType::kI64, {0, 7}).bytes().size(), 0u);
  EXPECT_THROW(Array(DType::kF32, {int64_t{1} << 62, 4}), Error);
}

}  // namespace
}  // namespace furrow
