#include "furrow/plan/placement.h"

namespace furrow::plan {

std::vector<int> group_ranks(const Placement& placement, GroupAxis axis) {
  if (axis == GroupAxis::kNone) return {placement.rank};
  std::array<int, 6> at = placement.layout.coordinates(placement.rank);
  int& replica = at[static_cast<size_t>(Axis::kReplicate)];
  int& shard = at[static_cast<size_t>(Axis::kShard)];
  const int first_replica = axis == GroupAxis::kShard ? replica : 0;
  const int last_replica = axis == GroupAxis::kShard ? replica + 1 : placement.replicas();
  const int first_shard = axis == GroupAxis::kReplicate ? shard : 0;
  const int last_shard = axis == GroupAxis::kReplicate ? shard + 1 : placement.shards();
  std::vector<int> ranks;
  for (replica = first_replica; replica < last_replica; ++replica) {
    for (shard = first_shard; shard < last_shard; ++shard) ranks.push_back(placement.layout.rank_of(at));
  }
  return ranks;
}

Placement placement_of(const Placement& placement, int rank) {
  Placement other = placement;
  other.rank = rank;
  return other;
}

}  // namespace furrow::plan
