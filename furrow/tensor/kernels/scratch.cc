#include "furrow/tensor/kernels/scratch.h"

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

#include "furrow/base/memory.h"
#include "furrow/tensor/kernels/scratch_blocks.h"

namespace furrow::tensor::kernels {
namespace {

constexpr size_t kLeastMore = size_t{64} << 10;  // of a block after the first

// First blocks: one goes to a thread at its first need and comes back when the thread ends.
struct Pool {
  std::mutex mutex;
  std::vector<CountedBuffer> free;
  size_t made = 0;

  CountedBuffer take() {
    const std::lock_guard lock(mutex);
    if (free.empty()) {
      ++made;
      return {kScratchBlockBytes, MemoryKind::kOther};
    }
    CountedBuffer block = std::move(free.back());
    free.pop_back();
    return block;
  }
};

// Never destroyed: threads may end after main.
Pool& pool() {
  static Pool& instance = *new Pool;
  return instance;
}

struct Arena {
  std::vector<CountedBuffer> blocks;
  size_t block = 0;  // the block in use
  size_t used = 0;   // bytes taken of it

  ~Arena() {
    if (blocks.empty()) return;
    const std::lock_guard lock(pool().mutex);
    pool().free.push_back(std::move(blocks.front()));
  }
};

thread_local Arena arena;

}  // namespace

void reserve_scratch(int threads) {
  const std::lock_guard lock(pool().mutex);
  for (; pool().made < static_cast<size_t>(threads); ++pool().made)
    pool().free.emplace_back(kScratchBlockBytes, MemoryKind::kOther);
}

ScratchScope::ScratchScope() : block_(arena.block), used_(arena.used) {}

ScratchScope::~ScratchScope() {
  arena.block = block_;
  arena.used = used_;
}

void* ScratchScope::take(size_t bytes) {
  bytes = (bytes + 63) / 64 * 64;
  if (arena.blocks.empty()) arena.blocks.push_back(pool().take());
  while (arena.block < arena.blocks.size() && arena.used + bytes > arena.blocks[arena.block].size()) {
    arena.block++;
    arena.used = 0;
  }
  if (arena.block == arena.blocks.size())
    arena.blocks.emplace_back(std::max(bytes, kLeastMore), MemoryKind::kOther);
  std::byte* result = arena.blocks[arena.block].data() + arena.used;
  arena.used += bytes;
  return result;
}

}  // namespace furrow::tensor::kernels
