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
};

thread_local Arena arena;

}  // namespace

ScratchScope::ScratchScope() : block_(arena.block), used_(arena.used) {}

ScratchScope::~ScratchScope() {
  arena.block = block_;
  arena.used = used_;
}

void* ScratchScope::take(size_t bytes) {
  bytes = (bytes + 63) / 64 * 64;
  while (arena.block < arena.blocks.size() && arena.used + bytes > arena.blocks[arena.block].size()) {
    arena.block++;
    arena.used = 0;
  }
  if (arena.block == arena.blocks.size()) {
    arena.blocks.emplace_back(std::max(bytes, kMinBlockBytes), MemoryKind::kOther);
  }
  std::byte* result = arena.blocks[arena.block].data() + arena.used;
  arena.used += bytes;
  return result;
}

}  // namespace furrow::tensor::kernels
