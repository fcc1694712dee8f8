#include "furrow/tensor/kernels/copy.h"

#include <algorithm>
#include <vector>

#include "furrow/tensor/kernels/test_support.h"

namespace furrow::tensor::kernels {
namespace {

// Every length around the borders, from and to any offset in a line: the bytes arrive and their neighbours
// stay.
TEST(CopyPastCache, CopiesEveryByteAndNoOther) {
  constexpr size_t kLong = size_t{1} << 18, kRoom = 64;
  std::vector<std::byte> from(2 * kLong), to(from.size());
  for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<std::byte>(i * 2654435761U >> 24);
  testing::for_each_target([&](const char* target) {
    for (const size_t size : {size_t{0}, size_t{5}, kLong - 1, kLong, kLong + 63, kLong + 4097}) {
      for (const size_t offset : {size_t{0}, size_t{4}, size_t{63}}) {
        for (const int threads : {1, 3}) {
          std::fill(to.begin(), to.end(), std::byte{0x5A});
          copy_past_cache(std::span(from).subspan(offset, size), to.data() + kRoom - offset, threads);
          const auto begin = to.begin() + static_cast<int64_t>(kRoom - offset);
          const auto end = begin + static_cast<int64_t>(size);
          ASSERT_TRUE(std::equal(begin, end, from.begin() + static_cast<int64_t>(offset)))
              << target << ": " << size << " bytes from offset " << offset << ", " << threads << " threads";
          const auto untouched = [](std::byte b) { return b == std::byte{0x5A}; };
          ASSERT_TRUE(std::all_of(to.begin(), begin, untouched) && std::all_of(end, to.end(), untouched));
        }
      }
    }
  });
}

TEST(Transpose, TurnsEveryElement) {
  testing::for_each_target([&](const char* target) {
    for (const int64_t rows : {1, 3, 16, 37, 128}) {
      for (const int64_t columns : {1, 5, 32, 47, 130}) {
        std::vector<float> x(static_cast<size_t>(rows * columns)), y(x.size() + 1, -1.0F);
        for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i);
        transpose(rows, columns, x.data(), y.data());
        for (int64_t i = 0; i < rows * columns; ++i)
          ASSERT_EQ(y[i % columns * rows + i / columns], x[i]) << target << ": " << rows << " x " << columns;
        EXPECT_EQ(y.back(), -1.0F);
      }
    }
  });
}

}  // namespace
}  // namespace furrow::tensor::kernels
