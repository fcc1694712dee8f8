// How a count is cut into register blocks, and rows into chains.
#pragma once

#include <algorithm>
#include <cstdint>

namespace furrow::tensor::kernels {

// Rows whose sum, of each column, is one chain.  Chains are added in their order, so that neither threads nor
// who cuts the rows between chains changes a bit.
inline constexpr int64_t kChainRows = 64;

// `count` things in ceil(count / most) blocks whose sizes differ by at most one; the larger ones come first.
struct Blocks {
  int64_t count, parts;
  Blocks(int64_t count, int64_t most) : count(count), parts((count + most - 1) / most) {}
  int64_t begin(int64_t block) const { return count / parts * block + std::min(block, count % parts); }
  int64_t size(int64_t block) const { return begin(block + 1) - begin(block); }
};

}  // namespace furrow::tensor::kernels
