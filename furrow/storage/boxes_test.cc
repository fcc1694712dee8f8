#include "furrow/storage/boxes.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "furrow/base/error.h"

namespace furrow::storage {
namespace {

Shape random_shape(std::mt19937* rng) {
  Shape shape(1 + (*rng)() % 4);
  for (int64_t& dim : shape) dim = 1 + static_cast<int64_t>((*rng)() % 5);
  return shape;
}

// Flat indices of a box's elements, dense order.
std::vector<int64_t> elements_of(const Shape& shape, const Box& box) {
  std::vector<int64_t> flat;
  for (int64_t i = 0; i < num_elements(shape); ++i) {
    bool inside = true;
    int64_t rest = i;
    for (size_t d = shape.size(); d-- > 0; rest /= shape[d]) {
      const int64_t index = rest % shape[d];
      inside = inside && index >= box.offset[d] && index < box.offset[d] + box.extent[d];
    }
    if (inside) flat.push_back(i);
  }
  return flat;
}

TEST(Boxes, OfARangeAreTheRange) {
  std::mt19937 rng(5);
  for (int trial = 0; trial < 60; ++trial) {
    const Shape shape = random_shape(&rng);
    const int64_t size = num_elements(shape);
    for (int64_t begin = 0; begin <= size; ++begin) {
      for (int64_t end = begin; end <= size; ++end) {
        const auto boxes = boxes_of_range(shape, begin, end);
        std::vector<int64_t> seen, expected(static_cast<size_t>(end - begin));
        std::iota(expected.begin(), expected.end(), begin);
        for (const Box& box : boxes) {
          const auto part = elements_of(shape, box);
          EXPECT_FALSE(part.empty());
          seen.insert(seen.end(), part.begin(), part.end());
        }
        ASSERT_EQ(seen, expected) << to_string(shape) << " [" << begin << ", " << end << ")";
        ASSERT_LE(boxes.size(), 2 * shape.size() - 1)
            << to_string(shape) << " [" << begin << ", " << end << ")";
      }
    }
  }
}

TEST(Boxes, ScalarsAndEmptyRanges) {
  EXPECT_EQ(boxes_of_range({}, 0, 1).size(), 1u);
  EXPECT_TRUE(boxes_of_range({}, 0, 0).empty());
  EXPECT_TRUE(boxes_of_range({0, 3}, 0, 0).empty());
  EXPECT_EQ(boxes_of_range({4, 3}, 0, 12), std::vector<Box>{whole_box({4, 3})});
  EXPECT_THROW(boxes_of_range({4}, 2, 5), Error);
  EXPECT_THROW(boxes_of_range({4}, 3, 2), Error);
}

// A tensor cut into boxes one way, put together through boxes cut another way.
TEST(Boxes, CopiesBetweenAnyTwoCuts) {
  std::mt19937 rng(8);
  for (int trial = 0; trial < 300; ++trial) {
    const Shape shape = random_shape(&rng);
    const int64_t size = num_elements(shape);
    std::vector<int32_t> whole(static_cast<size_t>(size)), out(static_cast<size_t>(size), -1);
    std::iota(whole.begin(), whole.end(), 1);
    const int64_t cut = static_cast<int64_t>(rng() % static_cast<uint64_t>(size + 1));
    const int64_t begin = static_cast<int64_t>(rng() % static_cast<uint64_t>(size + 1));
    const int64_t end = begin + static_cast<int64_t>(rng() % static_cast<uint64_t>(size - begin + 1));
    int64_t at = begin;
    for (const Box& to : boxes_of_range(shape, begin, end)) {
      const int64_t elements = num_elements(to.extent);
      const std::span<int32_t> target(out.data() + at, static_cast<size_t>(elements));
      for (const auto& [from_begin, from_end] : {std::pair{int64_t{0}, cut}, std::pair{cut, size}}) {
        int64_t from_at = from_begin;
        for (const Box& from : boxes_of_range(shape, from_begin, from_end)) {
          const int64_t n = num_elements(from.extent);
          copy_overlap(from, std::as_bytes(std::span(whole).subspan(from_at, n)), to,
                       std::as_writable_bytes(target), sizeof(int32_t));
          from_at += n;
        }
      }
      at += elements;
    }
    for (int64_t i = 0; i < size; ++i) {
      EXPECT_EQ(out[static_cast<size_t>(i)], i >= begin && i < end ? i + 1 : -1) << to_string(shape);
    }
  }
}

}  // namespace
}  // namespace furrow::storage
