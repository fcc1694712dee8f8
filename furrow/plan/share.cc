#include "furrow/plan/share.h"

#include <algorithm>

#include "furrow/base/error.h"

namespace furrow::plan {

Range block_of(Range within, int blocks, int index) {
  FURROW_CHECK(blocks >= 1 && index >= 0 && index < blocks, "no such block");
  const int32_t base = within.size() / blocks, longer = within.size() % blocks;
  const int32_t begin = within.begin + index * base + std::min(index, longer);
  return {begin, begin + base + (index < longer ? 1 : 0)};
}

Range replica_block(const Placement& placement, int32_t k) {
  return block_of({0, k}, placement.replicas(), placement.replica());
}

Range rank_block(const Placement& placement, int32_t k) {
  FURROW_CHECK(!placement.reduces_each_microbatch(), "the rank takes turns, not a block");
  return block_of(replica_block(placement, k), placement.shards(), placement.shard());
}

int32_t rounds_of(const Placement& placement, int32_t k) {
  return (replica_block(placement, k).size() + placement.shards() - 1) / placement.shards();
}

Range round_of(const Placement& placement, int32_t k, int32_t round) {
  const Range block = replica_block(placement, k);
  const int32_t begin = block.begin + round * placement.shards();
  return {begin, std::min(begin + placement.shards(), block.end)};
}

std::vector<int32_t> microbatches_of(const Placement& placement, int32_t k) {
  std::vector<int32_t> own;
  if (!placement.reduces_each_microbatch()) {
    const Range block = rank_block(placement, k);
    for (int32_t m = block.begin; m < block.end; ++m) own.push_back(m);
    return own;
  }
  const Range block = replica_block(placement, k);
  for (int32_t m = block.begin + placement.shard(); m < block.end; m += placement.shards()) own.push_back(m);
  return own;
}

bool takes(const Placement& placement, int32_t k, int32_t m) {
  if (!placement.reduces_each_microbatch()) return rank_block(placement, k).holds({m, m + 1});
  const Range block = replica_block(placement, k);
  return block.holds({m, m + 1}) && (m - block.begin) % placement.shards() == placement.shard();
}

}  // namespace furrow::plan
