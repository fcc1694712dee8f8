#include "furrow/comm/memory.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

namespace furrow::comm {
namespace {

class PlainBlock : public Memory::Block {
 public:
  explicit PlainBlock(size_t bytes) : size_(bytes), data_(::operator new(bytes, kAlignment)) {
    std::memset(data_, 0, bytes);
  }
  ~PlainBlock() override { ::operator delete(data_, kAlignment); }
  PlainBlock(const PlainBlock&) = delete;
  PlainBlock& operator=(const PlainBlock&) = delete;
  std::span<std::byte> bytes() const override { return {static_cast<std::byte*>(data_), size_}; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  size_t size_;
  void* data_;
};

}  // namespace

std::unique_ptr<Memory::Block> plain_block(size_t bytes) { return std::make_unique<PlainBlock>(bytes); }

void copy_in_parts(std::span<const std::byte> in, std::span<std::byte> out) {
  for (size_t i = 0; i < in.size(); i += kCopiedAtOnce) {
    const size_t part = std::min(kCopiedAtOnce, in.size() - i);
    copy(in.subspan(i, part), out.subspan(i, part));
  }
}

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
