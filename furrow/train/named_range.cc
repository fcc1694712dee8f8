#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>

#include "furrow/storage/boxes.h"
#include "furrow/tensor/dtype_torch.h"
#include "furrow/train/named_range_torch.h"

namespace furrow::train {
namespace {

// A box of the whole tensor, and the dense elements of the range that it is.
struct Place {
  storage::Box box;
  ArrayView elements;
};

std::vector<Place> places_of(const NamedRange& range) {
  const ArrayView all = tensor::to_array(range.elements);
  const size_t size = dtype_size(all.dtype);
  std::vector<Place> places;
  for (const plan::TensorBlock& block : plan::blocks_of(range.shape, range.place)) {
    const auto inside = [&](int64_t element) {
      return std::clamp<int64_t>(element - block.begin, 0, block.size());
    };
    const int64_t begin = inside(range.begin), end = inside(range.begin + range.elements.numel());
    size_t at = static_cast<size_t>(std::max<int64_t>(0, block.begin + begin - range.begin)) * size;
    for (storage::Box& box : storage::boxes_of_range(block.extent, begin, end)) {
      for (size_t d = 0; d < box.offset.size(); ++d) box.offset[d] += block.offset[d];
      const size_t bytes = static_cast<size_t>(num_elements(box.extent)) * size;
      const Shape extent = box.extent;
      places.push_back({std::move(box), {all.dtype, extent, all.bytes.subspan(at, bytes), all.device}});
      at += bytes;
    }
  }
  return places;
}

}  // namespace

std::vector<storage::CheckpointPiece> pieces_of(const NamedRange& range, const std::string& prefix) {
  std::vector<storage::CheckpointPiece> pieces;
  for (Place& place : places_of(range)) {
    pieces.push_back({.name = prefix + range.name,
                      .view = place.elements,
                      .global_shape = plan::whole_shape(range.shape, range.place),
                      .offset = std::move(place.box.offset)});
  }
  return pieces;
}

void through_host(const NamedRange& range, const std::function<void(const NamedRange& here)>& fill) {
  NamedRange here = range;
  here.elements = at::empty(range.elements.sizes(), range.elements.scalar_type());
  fill(here);
  range.elements.copy_(here.elements);
}

void read_range(const storage::CheckpointReader& reader, const NamedRange& range, const std::string& prefix) {
  if (!range.elements.device().is_cpu())
    return through_host(range, [&](const NamedRange& here) { read_range(reader, here, prefix); });
  const Shape whole = plan::whole_shape(range.shape, range.place);
  for (const Place& place : places_of(range))
    reader.read_box(prefix + range.name, whole, place.box.offset, place.elements);
}

void copy_range(std::span<const std::byte> whole, const NamedRange& range) {
  if (!range.elements.device().is_cpu())
    return through_host(range, [&](const NamedRange& here) { copy_range(whole, here); });
  const ArrayView to = tensor::to_array(range.elements);
  const size_t size = dtype_size(to.dtype);
  const int64_t end = range.begin + to.size();
  for (const plan::TensorRun& run : plan::runs_of(range.shape, range.place, range.begin, end)) {
    std::memcpy(to.bytes.data() + static_cast<size_t>(run.begin - range.begin) * size,
                whole.data() + static_cast<size_t>(run.whole) * size, static_cast<size_t>(run.size) * size);
  }
}

}  // namespace furrow::train
