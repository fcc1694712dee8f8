#include "furrow/base/convert.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <limits>
#include <vector>

#include "furrow/base/error.h"

namespace furrow {
namespace {

// Every byte, at every length up to a few vectors and every offset within one.
TEST(Convert, BytesAreScaledWithTheBitsOfPlainArithmetic) {
  std::vector<uint8_t> bytes(256 + 64);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i * 37);
  const float scale = 1.0f / (255.0f * 0.3081f), shift = -0.1307f / 0.3081f;
  for (size_t begin = 0; begin < 40; ++begin) {
    for (const size_t count :
         {size_t{0}, size_t{1}, size_t{15}, size_t{16}, size_t{17}, 70 + begin, size_t{256}}) {
      std::vector<float> out(count + 1, 7.0f);
      const auto part = std::span<const uint8_t>(bytes).subspan(begin, count);
      scale_bytes(part, scale, shift, std::span(out).first(count));
      for (size_t i = 0; i < count; ++i) {
        const float product = static_cast<float>(part[i]) * scale;
        ASSERT_EQ(std::bit_cast<uint32_t>(out[i]), std::bit_cast<uint32_t>(product + shift)) << i;
      }
      EXPECT_EQ(out[count], 7.0f) << "written behind the end";
    }
  }
}

template <class Narrow>
void expect_widened() {
  std::vector<Narrow> numbers(100);
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<Narrow>(i * 0x9E3779B9u + 1);
  numbers[3] = std::numeric_limits<Narrow>::max();
  std::vector<std::byte> bytes(1 + numbers.size() * sizeof(Narrow));  // at odd addresses
  std::memcpy(bytes.data() + 1, numbers.data(), bytes.size() - 1);
  for (size_t count = 0; count <= numbers.size(); ++count) {
    std::vector<int64_t> out(count + 1, -1);
    widen(std::span<const std::byte>(bytes).subspan(1), sizeof(Narrow), std::span(out).first(count));
    for (size_t i = 0; i < count; ++i) ASSERT_EQ(out[i], static_cast<int64_t>(numbers[i])) << i;
    EXPECT_EQ(out[count], -1) << "written behind the end";
  }
}

TEST(Convert, NumbersOfEveryWidthAreWidened) {
  expect_widened<uint8_t>();
  expect_widened<uint16_t>();
  expect_widened<uint32_t>();
}

TEST(Convert, SizesThatDoNotFitAreRefused) {
  std::vector<std::byte> bytes(8);
  std::vector<int64_t> out(5);
  EXPECT_THROW(widen(bytes, 2, out), Error);
  EXPECT_THROW(widen(bytes, 3, out), Error);
  std::vector<float> floats(3);
  EXPECT_THROW(scale_bytes(std::vector<uint8_t>(2), 1, 0, floats), Error);
}

}  // namespace
}  // namespace furrow
