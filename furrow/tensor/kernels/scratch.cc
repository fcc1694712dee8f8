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

// First blocks: one goes to a thread at its first need and comes back when the thread ends, or has one of its
// own.
class Pool {
 public:
  void reserve(size_t blocks) {
    const std::lock_guard lock(mutex_);
    for (; made_ < blocks; ++made_) free_.emplace_back(kScratchBlockBytes, MemoryKind::kOther);
  }
  CountedBuffer take() {
    const std::lock_guard lock(mutex_);
    if (free_.empty()) {
      ++made_;
      return {kScratchBlockBytes, MemoryKind::kOther};
    }
    CountedBuffer block = std::move(free_.back());
    free_.pop_back();
    return block;
  }
  void give(CountedBuffer block) {
    const std::lock_guard lock(mutex_);
    free_.push_back(std::move(block));
  }

 private:
  std::mutex mutex_;
  std::vector<CountedBuffer> free_;
  size_t made_ = 0;
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
  size_t taken = 0;  // bytes of all open scopes
  size_t most = 0;   // that there ever were

  void clear() {
    if (!blocks.empty() && blocks.front().size() == kScratchBlockBytes)
      pool().give(std::move(blocks.front()));
    blocks.clear();
  }
  void add(size_t bytes) {
    if (!blocks.empty()) {
      blocks.emplace_back(std::max(bytes, kLeastMore), MemoryKind::kOther);
    } else if (std::max(bytes, most) <= kScratchBlockBytes) {
      blocks.push_back(pool().take());
    } else {
      blocks.emplace_back(std::max(bytes, most), MemoryKind::kOther);
    }
  }
  ~Arena() { clear(); }
};

thread_local Arena arena;

}  // namespace

void reserve_scratch(int threads) { pool().reserve(static_cast<size_t>(threads)); }

ScratchScope::ScratchScope() : block_(arena.block), used_(arena.used), taken_(arena.taken) {}

ScratchScope::~ScratchScope() {
  arena.block = block_;
  arena.used = used_;
  arena.taken = taken_;
}

void* ScratchScope::take(size_t bytes) {
  bytes = (bytes + 63) / 64 * 64;
  if (arena.taken == 0 && arena.blocks.size() > 1) arena.clear();  // one block instead, of what they held
  while (arena.block < arena.blocks.size() && arena.used + bytes > arena.blocks[arena.block].size()) {
    arena.block++;
    arena.used = 0;
  }
  if (arena.block == arena.blocks.size()) arena.add(bytes);
  std::byte* result = arena.blocks[arena.block].data() + arena.used;
  arena.used += bytes;
  arena.taken += bytes;
  arena.most = std::max(arena.most, arena.taken);
  return result;
}

}  // namespace furrow::tensor::kernels
