// libtorch's CPU memory: counted by kind (base/memory.h) and kept for reuse, so that a training step, which
// asks for the same sizes as the one before, touches no new pages.
#pragma once

#include <c10/core/Allocator.h>

#include <cstdint>
#include <span>
#include <vector>

namespace furrow::tensor {

// From now on every CPU tensor of this process comes from the counting allocator: 64-byte aligned, counted
// under MemoryScope::current() of the thread that allocates.  Tensors that exist stay valid.  Idempotent,
// thread safe.
void install_counting_allocator();

struct AllocatorStats {
  int64_t in_use_bytes = 0;  // blocks that tensors hold, rounded up to their size class (at most 12.5 % more)
  int64_t cached_bytes = 0;  // free blocks kept for reuse
  int64_t misses = 0;        // allocations that no cached block could serve
};
AllocatorStats allocator_stats();

// A block of each of these sizes, written, so that its memory is there: once they are let go, allocations of
// these sizes find it in the cache.  Error{resource_exhausted} when memory is short.
std::vector<at::DataPtr> written_blocks(std::span<const int64_t> bytes);

// Gives every cached block back to the operating system's allocator.
void release_cached_memory();

}  // namespace furrow::tensor
