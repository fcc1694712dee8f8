#include "furrow/plan/slices.h"

#include <algorithm>

#include "furrow/base/error.h"

namespace furrow::plan {
namespace {

// The units of a bucket, whose buffers lie end to end.
struct Bucket {
  const FlatLayout& flat;
  int32_t first, end;

  // Elements of the units before one.
  int64_t before(int32_t unit) const {
    int64_t elements = 0;
    for (int32_t u = first; u < unit; ++u) elements += flat.units[u].elements;
    return elements;
  }
};

// Borders come to lie at the nearer end of a whole parameter.  Units lean to either side in turn, so that the
// same shards do not get the larger part of each.
int64_t uncut(const Bucket& bucket, int64_t border, int64_t lean) {
  int64_t before = 0;
  for (int32_t u = bucket.first; u < bucket.end; before += bucket.flat.units[u++].elements) {
    for (const FlatSpan& span : bucket.flat.units[u].spans) {
      const int64_t begin = before + span.offset;
      const int64_t end = (begin + span.size + kGrid - 1) / kGrid * kGrid;
      if (!span.whole || border <= begin || border >= end) continue;
      return 2 * (border + lean) < begin + end ? begin : end;
    }
  }
  return border;
}

// How a slice of a bucket is cut.
struct Cut {
  const Bucket& bucket;
  int count;
  int64_t first_longer;
};

// Slice `index` of [within), whose borders lie on the grid.
Slice cut(Slice within, const Cut& how, int index) {
  const int64_t blocks = within.size() / kGrid, base = blocks / how.count, left_over = blocks % how.count;
  // Slice i is longer by a block when (i - first_longer) mod count is below left_over.
  const int64_t offset = (how.count - how.first_longer % how.count) % how.count;
  const auto longer_below = [&](int64_t i) {
    return i / how.count * left_over + std::min<int64_t>(i % how.count, left_over);
  };
  const auto longer_before = [&](int64_t i) { return longer_below(offset + i) - longer_below(offset); };
  const int64_t lean = (how.first_longer % 2 == 0 ? 1 : -1) * within.size() / how.count / 4;
  const auto border = [&](int64_t i) {
    const int64_t even = within.begin + (i * base + longer_before(i)) * kGrid;
    if (even == within.begin || even == within.end) return even;
    return uncut(how.bucket, even, lean);
  };
  return {border(index), border(index + 1)};
}

const TiedUse* find_use(const FlatLayout& flat, const FlatBuffer& buffer) {
  for (const TiedUse& tied : flat.tied) {
    if (tied.owner_unit == buffer.unit && tied.use == buffer.use) return &tied;
  }
  return nullptr;
}

Slice unit_slice(const FlatLayout& flat, const Placement& placement, int unit, Part part) {
  const int64_t elements = flat.units[unit].elements;
  if (part == Part::kWhole) return {0, elements};
  const Bucket bucket{flat, placement.bucket_of(unit), placement.bucket_end(unit)};
  Slice slice =
      cut({0, bucket.before(bucket.end)}, {bucket, placement.shards(), bucket.first}, placement.shard());
  if (part == Part::kPiece)
    slice = cut(slice, {bucket, placement.replicas(), int64_t{bucket.first} + placement.shard()},
                placement.replica());
  const int64_t before = bucket.before(unit);
  return {std::clamp<int64_t>(slice.begin - before, 0, elements),
          std::clamp<int64_t>(slice.end - before, 0, elements)};
}

}  // namespace

int64_t buffer_elements(const FlatLayout& flat, const FlatBuffer& buffer) {
  const UnitLayout& unit = flat.units[buffer.unit];
  if (buffer.use == 0) return buffer.trained ? unit.trained_elements : unit.elements;
  const TiedUse* tied = find_use(flat, buffer);
  FURROW_CHECK(tied != nullptr, "a unit has no such use");
  return tied->size;
}

Slice part_slice(const FlatLayout& flat, const Placement& placement, const FlatBuffer& buffer, Part part) {
  const Slice of_unit = unit_slice(flat, placement, buffer.unit, part);
  if (buffer.use == 0) {
    const int64_t end = buffer_elements(flat, buffer);
    return {std::min(of_unit.begin, end), std::min(of_unit.end, end)};
  }
  const TiedUse* tied = find_use(flat, buffer);
  FURROW_CHECK(tied != nullptr, "a unit has no such use");
  const auto inside = [&](int64_t border) {
    return std::clamp<int64_t>(border - tied->owner_offset, 0, tied->size);
  };
  return {inside(of_unit.begin), inside(of_unit.end)};
}

std::vector<Slice> member_slices(const FlatLayout& flat, const Placement& placement, const FlatBuffer& buffer,
                                 GroupAxis axis) {
  const Part part = axis == GroupAxis::kShard ? Part::kShard : Part::kPiece;
  std::vector<Slice> slices;
  for (const int rank : group_ranks(placement, axis)) {
    slices.push_back(part_slice(flat, placement_of(placement, rank), buffer, part));
  }
  return slices;
}

}  // namespace furrow::plan
