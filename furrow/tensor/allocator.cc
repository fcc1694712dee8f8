#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <mutex>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/huge_pages.h"
#include "furrow/base/memory.h"
#include "furrow/tensor/allocator_torch.h"

namespace furrow::tensor {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kStepsPerDoubling = 8;
constexpr size_t kClasses = 64 * kStepsPerDoubling;

// Stands in the 64 bytes before the data.
struct alignas(kAlignment) Header {
  size_t requested = 0;
  size_t size_class = 0;
  MemoryKind kind = MemoryKind::kOther;
};

struct SizeClass {
  size_t index;
  size_t bytes;  // header included
};

// Eight classes for each power of two.
SizeClass size_class(size_t bytes) {
  bytes = std::max(bytes, kAlignment * kStepsPerDoubling);
  const size_t doubling = static_cast<size_t>(std::bit_width(bytes - 1)) - 1;
  const size_t step = (size_t{1} << doubling) / kStepsPerDoubling;
  const size_t steps = (bytes - (size_t{1} << doubling) + step - 1) / step;
  return {doubling * kStepsPerDoubling + steps, (size_t{1} << doubling) + steps * step};
}

class Cache {
 public:
  void* take(const SizeClass& wanted) {
    const std::lock_guard lock(mutex_);
    stats_.in_use_bytes += static_cast<int64_t>(wanted.bytes);
    peak_in_use_ = std::max(peak_in_use_, stats_.in_use_bytes);
    std::vector<void*>& free_blocks = free_[wanted.index];
    if (!free_blocks.empty()) {
      void* block = free_blocks.back();
      free_blocks.pop_back();
      stats_.cached_bytes -= static_cast<int64_t>(wanted.bytes);
      return block;
    }
    ++stats_.misses;
    trim(keep_limit());
    return allocate_memory(wanted.bytes);
  }

  void give(void* block, size_t index) {
    const std::lock_guard lock(mutex_);
    const auto bytes = static_cast<int64_t>(class_bytes(index));
    stats_.in_use_bytes -= bytes;
    if (!kReusesMemory) return free_memory(block, static_cast<size_t>(bytes));
    stats_.cached_bytes += bytes;
    free_[index].push_back(block);
  }

  void cancel(const SizeClass& wanted) {
    const std::lock_guard lock(mutex_);
    stats_.in_use_bytes -= static_cast<int64_t>(wanted.bytes);
  }

  void release_all() {
    const std::lock_guard lock(mutex_);
    trim(0);
  }

  AllocatorStats stats() {
    const std::lock_guard lock(mutex_);
    return stats_;
  }

 private:
  static size_t class_bytes(size_t index) {
    const size_t base = size_t{1} << (index / kStepsPerDoubling);
    return base + index % kStepsPerDoubling * (base / kStepsPerDoubling);
  }

  // Memory held for reuse may make the whole a quarter larger than its highest demand, or 64 MiB.
  int64_t keep_limit() const {
    const int64_t slack = std::max<int64_t>(peak_in_use_ / 4, int64_t{64} << 20);
    return std::max<int64_t>(0, peak_in_use_ + slack - stats_.in_use_bytes);
  }

  // Frees cached blocks, the largest first, until at most `limit` bytes are cached.
  void trim(int64_t limit) {
    for (size_t index = kClasses; index-- > 0 && stats_.cached_bytes > limit;) {
      std::vector<void*>& blocks = free_[index];
      while (!blocks.empty() && stats_.cached_bytes > limit) {
        free_memory(blocks.back(), class_bytes(index));
        blocks.pop_back();
        stats_.cached_bytes -= static_cast<int64_t>(class_bytes(index));
      }
    }
  }

  std::mutex mutex_;
  std::array<std::vector<void*>, kClasses> free_;
  AllocatorStats stats_;
  int64_t peak_in_use_ = 0;
};

// Never destroyed: tensors of static storage may be released after main.
Cache& cache() {
  static Cache& instance = *new Cache;
  return instance;
}

// A request beyond it is a mistake in some shape: the kernel might grant it and kill the process later.
size_t physical_bytes() {
  static const size_t bytes =
      static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

[[noreturn]] void out_of_memory(size_t bytes) {
  throw Error(ErrorCode::kResourceExhausted,
              fmt::format("no memory for a tensor of {} bytes: use a smaller model or microbatch", bytes));
}

void* allocate_counted(size_t bytes) {
  if (bytes > physical_bytes()) out_of_memory(bytes);
  const SizeClass wanted = size_class(bytes + sizeof(Header));
  void* block = cache().take(wanted);
  if (block == nullptr) {
    cache().cancel(wanted);
    out_of_memory(bytes);
  }
  auto* header = new (block) Header{bytes, wanted.index, MemoryScope::current()};
  count_allocation(header->kind, static_cast<int64_t>(bytes));
  return header + 1;
}

void free_counted(void* data) {
  if (data == nullptr) return;
  Header* header = static_cast<Header*>(data) - 1;
  count_allocation(header->kind, -static_cast<int64_t>(header->requested));
  cache().give(header, header->size_class);
}

class CountingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    void* data = bytes == 0 ? nullptr : allocate_counted(bytes);
    return {data, data, &free_counted, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_counted; }
  void copy_data(void* destination, const void* source, size_t bytes) const override {
    default_copy_data(destination, source, bytes);
  }
};

}  // namespace

void install_counting_allocator() {
  static const bool installed = [] {
    c10::SetCPUAllocator(new CountingAllocator, /*priority=*/1);
    return true;
  }();
  (void)installed;
}

std::vector<at::DataPtr> written_blocks(std::span<const int64_t> bytes) {
  std::vector<at::DataPtr> blocks;
  for (const int64_t size : bytes) {
    blocks.push_back(c10::GetCPUAllocator()->allocate(static_cast<size_t>(size)));
    if (size > 0) std::memset(blocks.back().get(), 0, static_cast<size_t>(size));
  }
  return blocks;
}

AllocatorStats allocator_stats() { return cache().stats(); }

void release_cached_memory() { cache().release_all(); }

}  // namespace furrow::tensor
