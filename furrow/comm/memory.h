// Registered memory: buffers that peers of the same host read, and where it says so write, in place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "furrow/base/memory.h"

namespace furrow::comm {

// Owns `size()` bytes, 64-byte aligned, zeroed, counted under a MemoryKind.  Move only.  It may outlive the
// communicator that it came from, and must not be released while a collective uses it.  Collectives over any
// other memory work too; between processes those cost one copy more.
class Memory {
 public:
  // What a transport implements: releases the bytes when destroyed.
  class Block {
   public:
    virtual ~Block() = default;
    virtual std::span<std::byte> bytes() const = 0;
  };

  Memory() = default;
  Memory(std::unique_ptr<Block> block, size_t size, MemoryKind kind);
  ~Memory();
  Memory(Memory&& other) noexcept;
  Memory& operator=(Memory&& other) noexcept;

  std::byte* data() const { return block_ ? block_->bytes().data() : nullptr; }
  size_t size() const { return size_; }
  std::span<std::byte> bytes() const { return {data(), size_}; }
  template <class T>
  std::span<T> as() const {
    return {reinterpret_cast<T*>(data()), size_ / sizeof(T)};
  }

 private:
  std::unique_ptr<Block> block_;
  size_t size_ = 0;
  MemoryKind kind_ = MemoryKind::kOther;
};

// A block that no transport knows: zeroed, 64-byte aligned.
std::unique_ptr<Memory::Block> plain_block(size_t bytes);

}  // namespace furrow::comm
