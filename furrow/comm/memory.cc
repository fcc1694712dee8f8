#include "furrow/comm/memory.h"

#include <utility>

namespace furrow::comm {

Memory::Memory(std::unique_ptr<Block> block, size_t size, MemoryKind kind)
    : block_(std::move(block)), size_(size), kind_(kind) {
  count_allocation(kind_, static_cast<int64_t>(size_));
}

Memory::~Memory() {
  if (block_) count_allocation(kind_, -static_cast<int64_t>(size_));
}

Memory::Memory(Memory&& other) noexcept
    : block_(std::move(other.block_)), size_(std::exchange(other.size_, 0)), kind_(other.kind_) {}

Memory& Memory::operator=(Memory&& other) noexcept {
  std::swap(block_, other.block_);
  std::swap(size_, other.size_);
  std::swap(kind_, other.kind_);
  return *this;
}

}  // namespace furrow::comm
