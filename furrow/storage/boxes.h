// Boxes of row-major tensors: what the pieces of a checkpoint are, and how flat ranges turn into them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "furrow/base/array.h"

namespace furrow::storage {

struct Box {
  Shape offset;  // first element, per dim
  Shape extent;  // size, per dim
  friend bool operator==(const Box&, const Box&) = default;
};

Box whole_box(const Shape& shape);
bool overlap(const Box& a, const Box& b);  // of elements: an empty box overlaps nothing

// Flat elements [begin, end) of a tensor as boxes in flat order, so that the dense boxes one after the other
// are the range; at most 2 dims - 1 (1 for a scalar), none for an empty range.  REQUIRES: 0 <= begin <= end
// <= size.
std::vector<Box> boxes_of_range(const Shape& shape, int64_t begin, int64_t end);

// Where both boxes overlap: from the dense elements of one into those of the other, `element` bytes each.
// REQUIRES: the spans hold the boxes' elements.
void copy_overlap(const Box& from, std::span<const std::byte> source, const Box& to, std::span<std::byte> out,
                  size_t element);

}  // namespace furrow::storage
