// Where the parts of a unit's flat buffer begin and end, in elements.
//
// A buffer of n grid blocks (kGrid elements) is cut into S shards of n/S blocks, the n mod S left over go one
// each to the shards from u mod S on, u the unit: so that the ranks' sums over units are even.  A shard is
// cut into R pieces in the same way.  Shards, and the pieces of one shard, follow one another without gaps.
// The buffers of a bucket (plan/buckets.h) are cut end to end, as that of its first unit: what a member has
// of all of them follows one another too, and may be nothing of some.
// A border that would cut a whole parameter (Parameter::whole) moves to one of its ends.
// Buffers of gradients and state hold the trained elements alone: their parts are those of the parameters as
// far as these are trained, uneven or empty where they are not.  A use above 0 of tied parameters has a
// buffer of its own, which is cut where the owner's slices fall on it: its parts may be uneven, or empty.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "furrow/plan/flat_layout.h"
#include "furrow/plan/placement.h"

namespace furrow::plan {

struct Slice {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
  friend bool operator==(const Slice&, const Slice&) = default;
};

// What both have; empty, from where the later one begins, where that is nothing.
inline Slice overlap(const Slice& a, const Slice& b) {
  const int64_t begin = std::max(a.begin, b.begin);
  return {begin, std::max(begin, std::min(a.end, b.end))};
}

// A flat buffer: of a unit's parameters (use 0), or of the gradient of a tied use.
struct FlatBuffer {
  int unit = 0;
  int use = 0;
  bool trained = false;  // of the trained elements alone
};

// Elements of the whole buffer.  Error{internal}: no such use.
int64_t buffer_elements(const FlatLayout& flat, const FlatBuffer& buffer);

// Elements [begin, end) of the whole buffer that a part is on the rank of `placement`.
Slice part_slice(const FlatLayout& flat, const Placement& placement, const FlatBuffer& buffer, Part part);

// The part that each member of the rank's group over an axis holds, in group_ranks order: the counts of a
// reduce-scatter or an all-gather.  kReplicate: pieces; kShard: shards.
std::vector<Slice> member_slices(const FlatLayout& flat, const Placement& placement, const FlatBuffer& buffer,
                                 GroupAxis axis);

}  // namespace furrow::plan
