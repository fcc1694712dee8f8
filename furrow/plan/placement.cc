#include "furrow/plan/placement.h"

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "furrow/base/error.h"

namespace furrow::plan {

namespace {

const Stage& stage_with(const std::vector<Stage>& stages, int32_t unit) {
  const auto stage = std::upper_bound(stages.begin(), stages.end(), unit,
                                      [](int32_t u, const Stage& s) { return u < s.end; });
  FURROW_CHECK(unit >= 0 && stage != stages.end(), "a unit of no stage");
  return *stage;
}

}  // namespace

int Placement::pipeline_rank_of(int32_t unit) const {
  return stages.empty() ? 0 : stage_with(stages, unit).rank;
}

int32_t Placement::bucket_end(int32_t unit) const {
  if (buckets.empty()) return unit + 1;
  const auto from = buckets.begin() + unit;
  return static_cast<int32_t>(std::find_if(from, buckets.end(), [&](int32_t b) { return b != *from; }) -
                              buckets.begin());
}

bool same_stage(const Placement& placement, int32_t a, int32_t b) {
  return placement.stages.empty() || &stage_with(placement.stages, a) == &stage_with(placement.stages, b);
}

std::vector<int> group_ranks(const Placement& placement, GroupAxis axis) {
  using enum GroupAxis;
  const std::array<int, 6> own = placement.layout.coordinates(placement.rank);
  // Where the coordinate of an axis of the layout varies in the group.
  const auto range = [&](Axis of, std::initializer_list<GroupAxis> in) {
    const bool varies = std::find(in.begin(), in.end(), axis) != in.end();
    const int at = own[static_cast<size_t>(of)];
    return varies ? std::pair(0, placement.layout.degree(of)) : std::pair(at, at + 1);
  };
  const auto stages = range(Axis::kPipeline, {kPipeline, kParts, kAll});
  const auto replicas = range(Axis::kReplicate, {kReplicate, kData, kParts, kAll});
  const auto shards = range(Axis::kShard, {kShard, kData, kParts, kAll});
  const auto tensor = range(Axis::kTensor, {kTensor, kAll});
  std::vector<int> ranks;
  std::array<int, 6> at = own;
  for (int stage = stages.first; stage < stages.second; ++stage) {
    for (int replica = replicas.first; replica < replicas.second; ++replica) {
      for (int shard = shards.first; shard < shards.second; ++shard) {
        at[static_cast<size_t>(Axis::kPipeline)] = stage;
        at[static_cast<size_t>(Axis::kReplicate)] = replica;
        at[static_cast<size_t>(Axis::kShard)] = shard;
        for (int part = tensor.first; part < tensor.second; ++part) {
          at[static_cast<size_t>(Axis::kTensor)] = part;
          ranks.push_back(placement.layout.rank_of(at));
        }
      }
    }
  }
  return ranks;
}

int pipeline_peer(const Placement& placement, int pipeline_rank) {
  std::array<int, 6> at = placement.layout.coordinates(placement.rank);
  at[static_cast<size_t>(Axis::kPipeline)] = pipeline_rank;
  return placement.layout.rank_of(at);
}

std::vector<int> ranks_with(const Placement& placement, int32_t unit, Part part, int tensor_rank) {
  std::array<int, 6> at{};
  at[static_cast<size_t>(Axis::kTensor)] = tensor_rank;
  at[static_cast<size_t>(Axis::kPipeline)] = placement.pipeline_rank_of(unit);
  std::vector<int> ranks;
  const int shards = part == Part::kShard ? placement.shards() : 1;
  for (int shard = 0; shard < shards; ++shard) {
    at[static_cast<size_t>(Axis::kShard)] = shard;
    ranks.push_back(placement.layout.rank_of(at));
  }
  return ranks;
}

Placement placement_of(const Placement& placement, int rank) {
  Placement other = placement;
  other.rank = rank;
  return other;
}

}  // namespace furrow::plan
