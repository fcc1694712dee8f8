// Registered memory: buffers that peers of the same host read, and where it says so write, in place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>

#include "furrow/base/memory.h"

namespace furrow::comm {

// Owns `size()` bytes, 64-byte aligned, zeroed, counted under a MemoryKind.  Move only.  It may outlive the
// communicator that it came from, and must not be released while a collective uses it.  Collectives over any
// other memory work too; between processes what peers read of it or write is copied once more, and an
// all_reduce of 1 MiB takes three to four times as long (`plain` of bench/comm.py).
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

// For as many bytes the C library has the processor move whole lines.  Above the size of a core's cache it
// stores vectors, each of which first asks for its line: three times as slow where another core has read it.
inline constexpr size_t kCopiedAtOnce = 1 << 18;

// in to out, which is as large, and the same bytes or apart.
void copy_in_parts(std::span<const std::byte> in, std::span<std::byte> out);
inline void copy(std::span<const std::byte> in, std::span<std::byte> out) {
  if (in.size() > kCopiedAtOnce) return copy_in_parts(in, out);
  if (!in.empty() && in.data() != out.data()) std::memcpy(out.data(), in.data(), in.size());
}

}  // namespace furrow::comm
