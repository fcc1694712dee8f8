// Where a program runs: its rank in the layout, and which part of the model's buffers that rank holds.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "furrow/plan/layout.h"

namespace furrow::plan {

// A part of a unit's flat buffer, cut on the grid of kGrid elements (plan/slices.h says where).
enum class Part : uint8_t {
  kWhole,
  kShard,  // slice s of dp_shard, s the rank's coordinate there
  kPiece,  // slice r of dp_replicate of that shard; of the whole where dp_shard is 1
};
inline constexpr std::array<std::string_view, 3> kPartNames = {"whole", "shard", "piece"};

// The ranks that a communication instruction runs over: those that share every other coordinate.
enum class GroupAxis : uint8_t {
  kNone,
  kReplicate,  // dp_replicate
  kShard,      // dp_shard
  kData,       // dp: both, dp_shard the inner one
  kPipeline,   // pp
  kParts,      // pp_dp: pp and dp, all ranks that hold something else
  kTensor,     // tp: of what units do inside, no instruction of its own
  kAll,        // pp_dp_tp: all ranks, where tp is above 1
};
inline constexpr std::array<std::string_view, 8> kGroupAxisNames = {
    "", "dp_replicate", "dp_shard", "dp", "pp", "pp_dp", "tp", "pp_dp_tp"};

// In which order the gradients of microbatches are added (plan/gradient_tree.h).
enum class TreeKind : uint8_t { kCanonical, kByRanks };
inline constexpr std::array<std::string_view, 2> kTreeNames = {"canonical", "by_ranks"};

// A run of units that one pp coordinate has.
struct Stage {
  int32_t begin = 0;
  int32_t end = 0;
  int rank = 0;  // pp coordinate
  friend bool operator==(const Stage&, const Stage&) = default;
};

struct Placement {
  Layout layout;
  int rank = 0;
  int zero_stage = 0;  // 1, 2, 3 where dp_shard is above 1, else 0
  TreeKind tree = TreeKind::kCanonical;
  std::vector<Stage> stages = {};  // in the order of units; empty where pp is 1: all units are one stage
  std::vector<int32_t> buckets =
      {};  // by unit: the first one of its bucket (buckets.h); empty: all are alone
  friend bool operator==(const Placement&, const Placement&) = default;

  int replicas() const { return layout.degree(Axis::kReplicate); }
  int shards() const { return layout.degree(Axis::kShard); }
  int data_ranks() const { return layout.data_ranks(); }
  int pipeline_ranks() const { return layout.degree(Axis::kPipeline); }
  int pipeline_rank() const { return layout.coordinates(rank)[static_cast<size_t>(Axis::kPipeline)]; }
  int tensor_ranks() const { return layout.degree(Axis::kTensor); }
  int tensor_rank() const { return layout.coordinates(rank)[static_cast<size_t>(Axis::kTensor)]; }
  int replica() const { return layout.coordinates(rank)[static_cast<size_t>(Axis::kReplicate)]; }
  int shard() const { return layout.coordinates(rank)[static_cast<size_t>(Axis::kShard)]; }
  bool reduces_each_microbatch() const { return zero_stage >= 2; }  // else once a step

  int pipeline_rank_of(int32_t unit) const;  // that has the unit.  REQUIRES: a unit of the model
  int32_t bucket_of(int32_t unit) const { return buckets.empty() ? unit : buckets[unit]; }  // its first unit
  int32_t bucket_end(int32_t unit) const;
  bool holds(int32_t unit) const { return stages.empty() || pipeline_rank_of(unit) == pipeline_rank(); }
  GroupAxis parts_axis() const {
    if (tensor_ranks() > 1) return GroupAxis::kAll;
    return pipeline_ranks() > 1 ? GroupAxis::kParts : GroupAxis::kData;
  }

  // What the tensor axis does not cut is the same on all its ranks: the first one counts and writes it.
  bool counts_replicated() const { return tensor_rank() == 0; }

  // Statistics are the same on every data rank of their stage: the first one writes them to a checkpoint.
  bool writes_statistics() const { return replica() == 0 && shard() == 0 && tensor_rank() == 0; }

  Part params_part() const { return zero_stage == 3 ? Part::kShard : Part::kWhole; }
  Part step_part() const {
    return shards() > 1 ? Part::kShard : Part::kWhole;
  }  // of state and final gradient
  // The smallest: no two ranks of one tp coordinate hold the same element of it.  Norms are summed and
  // checkpoints written by it.
  Part own_part() const { return replicas() > 1 ? Part::kPiece : step_part(); }
};

// The ranks of the group of `placement.rank` over an axis, in the order of their coordinates; kNone: itself.
std::vector<int> group_ranks(const Placement& placement, GroupAxis axis);

// The rank of a pp coordinate whose other coordinates are those of `placement.rank`.
int pipeline_peer(const Placement& placement, int pipeline_rank);

// The ranks of the first replica, at a tp coordinate, whose parts of a flat buffer of the unit make up the
// whole: all its shards where `part` is a shard, else the first of them.
std::vector<int> ranks_with(const Placement& placement, int32_t unit, Part part, int tensor_rank = 0);

// Whether two units are of one stage.
bool same_stage(const Placement& placement, int32_t a, int32_t b);

// The same placement as another rank sees it.
Placement placement_of(const Placement& placement, int rank);

}  // namespace furrow::plan
