#include "furrow/data/idx.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "furrow/base/error.h"
#include "furrow/data/test_files.h"

namespace furrow::data {
namespace {

using testing::ByteVector;
using ::testing::HasSubstr;
using testing::idx_bytes;

std::string message_of(const ByteVector& file) {
  try {
    parse_idx(file);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kDataLoss);
    return error.what();
  }
  return "no error";
}

TEST(Idx, ParsesShapeTypeAndValues) {
  const ByteVector file = idx_bytes(8, {2, 3}, {1, 2, 3, 4, 5, 6});
  const Idx idx = parse_idx(file);
  EXPECT_EQ(idx.dtype, DType::kU8);
  EXPECT_EQ(idx.shape, (Shape{2, 3}));
  EXPECT_EQ(ByteVector(idx.values.begin(), idx.values.end()), (ByteVector{1, 2, 3, 4, 5, 6}));
}

TEST(Idx, KnowsEveryType) {
  const std::pair<uint8_t, DType> types[] = {{8, DType::kU8},     {9, DType::kI8},     {0x0B, DType::kI16},
                                             {0x0C, DType::kI32}, {0x0D, DType::kF32}, {0x0E, DType::kF64}};
  for (const auto& [code, dtype] : types) {
    EXPECT_EQ(parse_idx(idx_bytes(code, {3}, ByteVector(3 * dtype_size(dtype)))).dtype, dtype);
    EXPECT_THAT(message_of(idx_bytes(code, {3}, ByteVector(3 * dtype_size(dtype) - 1))),
                HasSubstr("more bytes"));
  }
  EXPECT_THAT(message_of(idx_bytes(0x0A, {1}, {1})), HasSubstr("unknown IDX type 0x0a"));
}

TEST(Idx, EmptyDimsAreAllowedHere) {
  EXPECT_EQ(parse_idx(idx_bytes(8, {0, 28, 28}, {})).shape, (Shape{0, 28, 28}));
}

TEST(Idx, DamageIsNamed) {
  EXPECT_THAT(message_of({}), HasSubstr("0 bytes"));
  EXPECT_THAT(message_of(testing::bytes_of("PK34....")), HasSubstr("wrong magic 504b3334"));
  EXPECT_THAT(message_of({0, 0, 8, 0}), HasSubstr("0 dims"));
  EXPECT_THAT(message_of({0, 0, 8, 9}), HasSubstr("9 dims"));
  EXPECT_THAT(message_of({0, 0, 8, 2, 0, 0, 0, 1, 0, 0, 0}), HasSubstr("truncated"));
  EXPECT_THAT(message_of(idx_bytes(8, {2, 3}, ByteVector(5))), HasSubstr("more bytes than the 5"));
  EXPECT_THAT(message_of(idx_bytes(8, {2, 3}, ByteVector(7))), HasSubstr("fewer bytes than the 7"));
  EXPECT_THAT(message_of(idx_bytes(8, {0, 3}, ByteVector(1))), HasSubstr("fewer"));
}

TEST(Idx, HugeDimsNeitherOverflowNorAllocate) {
  const uint32_t most = 0xFFFFFFFFu;
  EXPECT_THAT(message_of(idx_bytes(8, {most, most, most, most}, ByteVector(16))), HasSubstr("more bytes"));
  EXPECT_THAT(message_of(idx_bytes(8, {1u << 31, 1u << 31, 4}, ByteVector(16))),
              HasSubstr("more bytes"));  // 2^64
}

TEST(Idx, HeaderAlone) {
  const ByteVector file = idx_bytes(8, {60000, 28, 28}, {});
  EXPECT_EQ(parse_idx_header(file).shape, (Shape{60000, 28, 28}));
  EXPECT_TRUE(parse_idx_header(file).values.empty());
}

}  // namespace
}  // namespace furrow::data
