// Which data rank takes which microbatch of the global batch.  Microbatches are numbered over the global
// batch, on every rank alike.
//
// Replicas take contiguous blocks.  Inside a replica the ranks take contiguous blocks where gradients are
// accumulated first and reduced once a step (data parallel, ZeRO-1), and turns where they are reduced after
// every microbatch (ZeRO-2, ZeRO-3): round i of a block that begins at b is b + i*S, ..., b + i*S + S - 1,
// one for each of the S ranks.  Blocks differ by at most one microbatch, longer ones first.
#pragma once

#include <compare>
#include <cstdint>
#include <vector>

#include "furrow/plan/placement.h"

namespace furrow::plan {

struct Range {
  int32_t begin = 0;
  int32_t end = 0;
  int32_t size() const { return end - begin; }
  bool holds(const Range& other) const { return begin <= other.begin && other.end <= end; }
  friend auto operator<=>(const Range&, const Range&) = default;
};

// Block `index` of [within.begin, within.end) cut into `blocks`.
Range block_of(Range within, int blocks, int index);

// What the replica of the rank takes of k microbatches.
Range replica_block(const Placement& placement, int32_t k);

// What the rank takes.  REQUIRES: it takes a block (not reduces_each_microbatch()).
Range rank_block(const Placement& placement, int32_t k);

// The microbatches of the rank, in the order of execution.  May be empty where k is below the data ranks.
std::vector<int32_t> microbatches_of(const Placement& placement, int32_t k);

// Whether the rank takes microbatch m.
bool takes(const Placement& placement, int32_t k, int32_t m);

// Rounds of the replica: ceil(block / shards).
int32_t rounds_of(const Placement& placement, int32_t k);
Range round_of(const Placement& placement, int32_t k, int32_t round);

}  // namespace furrow::plan
