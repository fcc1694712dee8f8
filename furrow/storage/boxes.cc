#include "furrow/storage/boxes.h"

#include <algorithm>
#include <cstring>

#include "furrow/base/error.h"

namespace furrow::storage {
namespace {

// Elements of one index of dim d.
int64_t stride_of(const Shape& shape, size_t d) {
  int64_t stride = 1;
  for (size_t i = d + 1; i < shape.size(); ++i) stride *= shape[i];
  return stride;
}

// The box of `count` indices of dim d from element `begin` on, whole in every later dim.
Box box_at(const Shape& shape, size_t d, int64_t begin, int64_t count) {
  Box box{Shape(shape.size(), 0), shape};
  for (size_t i = 0; i <= d; ++i) {
    box.offset[i] = begin / stride_of(shape, i) % shape[i];
    box.extent[i] = i == d ? count : 1;
  }
  return box;
}

// Index of the element of a dense box at `index` of the tensor.
int64_t place(const Box& box, const Shape& index) {
  int64_t at = 0;
  for (size_t d = 0; d < index.size(); ++d) at = at * box.extent[d] + index[d] - box.offset[d];
  return at;
}

Box overlap_of(const Box& a, const Box& b) {
  Box both = a;
  for (size_t d = 0; d < a.offset.size(); ++d) {
    both.offset[d] = std::max(a.offset[d], b.offset[d]);
    both.extent[d] = std::min(a.offset[d] + a.extent[d], b.offset[d] + b.extent[d]) - both.offset[d];
    both.extent[d] = std::max<int64_t>(both.extent[d], 0);
  }
  return both;
}

// The first dim such that all later ones are whole in each of the boxes: from it on elements are contiguous.
size_t run_dim(const Box& both, const Box& from, const Box& to) {
  size_t d = both.extent.size() - 1;
  while (d > 0 && both.extent[d] == from.extent[d] && both.extent[d] == to.extent[d]) --d;
  return d;
}

}  // namespace

Box whole_box(const Shape& shape) { return {Shape(shape.size(), 0), shape}; }

bool overlap(const Box& a, const Box& b) {
  for (size_t d = 0; d < a.offset.size(); ++d) {
    const int64_t begin = std::max(a.offset[d], b.offset[d]);
    if (std::min(a.offset[d] + a.extent[d], b.offset[d] + b.extent[d]) <= begin) return false;
  }
  return true;
}

std::vector<Box> boxes_of_range(const Shape& shape, int64_t begin, int64_t end) {
  FURROW_CHECK(begin >= 0 && begin <= end && end <= num_elements(shape), "a range outside its tensor");
  std::vector<Box> boxes;
  if (begin == end) return boxes;
  if (shape.empty()) return {Box{}};
  // Outwards from the innermost dim while whole indices of the next dim fit, inwards again at the end.
  size_t d = shape.size() - 1;
  while (begin < end) {
    const int64_t stride = stride_of(shape, d), outer = stride * shape[d];
    if (d > 0 && begin % outer == 0 && end - begin >= outer) {
      --d;
      continue;
    }
    const int64_t border = std::min(end, begin / outer * outer + outer);
    const int64_t count = (border - begin) / stride;
    if (count == 0) {
      ++d;
      continue;
    }
    boxes.push_back(box_at(shape, d, begin, count));
    begin += count * stride;
  }
  return boxes;
}

void copy_overlap(const Box& from, std::span<const std::byte> source, const Box& to, std::span<std::byte> out,
                  size_t element) {
  const Box both = overlap_of(from, to);
  const int64_t elements = num_elements(both.extent);
  if (elements == 0) return;
  if (both == from && both == to) {
    std::memcpy(out.data(), source.data(), source.size());
    return;
  }
  const size_t d = run_dim(both, from, to);
  const int64_t run = both.extent[d] * stride_of(both.extent, d);
  Shape index = both.offset;
  for (int64_t copied = 0; copied < elements; copied += run) {
    std::memcpy(out.data() + static_cast<size_t>(place(to, index)) * element,
                source.data() + static_cast<size_t>(place(from, index)) * element,
                static_cast<size_t>(run) * element);
    for (size_t i = d; i-- > 0;) {
      if (++index[i] < both.offset[i] + both.extent[i]) break;
      index[i] = both.offset[i];
    }
  }
}

}  // namespace furrow::storage
