#include "furrow/plan/slices.h"

#include <algorithm>

#include "furrow/base/error.h"

namespace furrow::plan {
namespace {

// Slice `index` of `count` of [within), whose borders lie on the grid.
Slice cut(Slice within, int count, int index, int64_t first_longer) {
  const int64_t blocks = within.size() / kGrid, base = blocks / count, left_over = blocks % count;
  // Slice i is longer by a block when (i - first_longer) mod count is below left_over.
  const int64_t offset = (count - first_longer % count) % count;
  const auto longer_below = [&](int64_t i) {
    return i / count * left_over + std::min<int64_t>(i % count, left_over);
  };
  const auto longer_before = [&](int64_t i) { return longer_below(offset + i) - longer_below(offset); };
  const auto border = [&](int64_t i) { return within.begin + (i * base + longer_before(i)) * kGrid; };
  return {border(index), border(index + 1)};
}

const TiedUse* find_use(const FlatLayout& flat, const FlatBuffer& buffer) {
  for (const TiedUse& tied : flat.tied) {
    if (tied.owner_unit == buffer.unit && tied.use == buffer.use) return &tied;
  }
  return nullptr;
}

Slice unit_slice(const FlatLayout& flat, const Placement& placement, int unit, Part part) {
  const Slice whole{0, flat.units[unit].elements};
  if (part == Part::kWhole) return whole;
  const Slice shard = cut(whole, placement.shards(), placement.shard(), unit);
  if (part == Part::kShard) return shard;
  return cut(shard, placement.replicas(), placement.replica(), int64_t{unit} + placement.shard());
}

}  // namespace

int64_t buffer_elements(const FlatLayout& flat, const FlatBuffer& buffer) {
  if (buffer.use == 0) return flat.units[buffer.unit].elements;
  const TiedUse* tied = find_use(flat, buffer);
  FURROW_CHECK(tied != nullptr, "a unit has no such use");
  return tied->size;
}

Slice part_slice(const FlatLayout& flat, const Placement& placement, const FlatBuffer& buffer, Part part) {
  const Slice of_unit = unit_slice(flat, placement, buffer.unit, part);
  if (buffer.use == 0) return of_unit;
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
