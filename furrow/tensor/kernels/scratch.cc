#include "furrow/tensor/kernels/scratch.h"

#include <algorithm>
#include <vector>

#include "furrow/base/memory.h"

namespace furrow::tensor::kernels {
namespace {

constexpr size_t kMinBlockBytes = size_t{1} << 18;

struct Arena {
  std::vector<CountedBuffer> blocks;
  size_t block = 0;  // the block in use
  size_t used = 0;   // bytes taken of it
  size_t taken = 0;  // bytes of all open scopes
  size_t most = 0;   // that there ever were
};

thread_local Arena arena;

}  // namespace

ScratchScope::ScratchScope() : block_(arena.block), used_(arena.used), taken_(arena.taken) {}

ScratchScope::~ScratchScope() {
  arena.block = block_;
  arena.used = used_;
  arena.taken = taken_;
}

void* ScratchScope::take(size_t bytes) {
  bytes = (bytes + 63) / 64 * 64;
  if (arena.taken == 0 && arena.blocks.size() > 1)
    arena.blocks.clear();  // one block instead, of what they held
  while (arena.block < arena.blocks.size() && arena.used + bytes > arena.blocks[arena.block].size()) {
    arena.block++;
    arena.used = 0;
  }
  if (arena.block == arena.blocks.size()) {
    const size_t least = arena.blocks.empty() ? std::max(arena.most, kMinBlockBytes) : kMinBlockBytes;
    arena.blocks.emplace_back(std::max(bytes, least), MemoryKind::kOther);
  }
  std::byte* result = arena.blocks[arena.block].data() + arena.used;
  arena.used += bytes;
  arena.taken += bytes;
  arena.most = std::max(arena.most, arena.taken);
  return result;
}

}  // namespace furrow::tensor::kernels
