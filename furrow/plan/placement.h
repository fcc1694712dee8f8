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
};
inline constexpr std::array<std::string_view, 4> kGroupAxisNames = {"", "dp_replicate", "dp_shard", "dp"};

// In which order the gradients of microbatches are added (plan/gradient_tree.h).
enum class TreeKind : uint8_t { kCanonical, kByRanks };
inline constexpr std::array<std::string_view, 2> kTreeNames = {"canonical", "by_ranks"};

struct Placement {
  Layout layout;
  int rank = 0;
  int zero_stage = 0;  // 1, 2, 3 where dp_shard is above 1, else 0
  TreeKind tree = TreeKind::kCanonical;
  friend bool operator==(const Placement&, const Placement&) = default;

  int replicas() const { return layout.degree(Axis::kReplicate); }
  int shards() const { return layout.degree(Axis::kShard); }
  int data_ranks() const { return layout.data_ranks(); }
  int replica() const { return layout.coordinates(rank)[static_cast<size_t>(Axis::kReplicate)]; }
  int shard() const { return layout.coordinates(rank)[static_cast<size_t>(Axis::kShard)]; }
  bool reduces_each_microbatch() const { return zero_stage >= 2; }  // else once a step

  // Statistics are the same on every data rank: the first one writes them to a checkpoint.
  bool writes_statistics() const { return replica() == 0 && shard() == 0; }

  Part params_part() const { return zero_stage == 3 ? Part::kShard : Part::kWhole; }
  Part step_part() const {
    return shards() > 1 ? Part::kShard : Part::kWhole;
  }  // of state and final gradient
  // The smallest: no two ranks hold the same element of it.  Norms are summed and checkpoints written by it.
  Part own_part() const { return replicas() > 1 ? Part::kPiece : step_part(); }
};

// The ranks of the group of `placement.rank` over an axis, in the order of their coordinates; kNone: itself.
std::vector<int> group_ranks(const Placement& placement, GroupAxis axis);

// The same placement as another rank sees it.
Placement placement_of(const Placement& placement, int rank);

}  // namespace furrow::plan
