// Counted memory: every large buffer says what kind it is; counters hold the current and the peak bytes by
// kind. Thread safe.  libtorch's CPU allocator is routed through the same counters
// (tensor/allocator_torch.h).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace furrow {

enum class MemoryKind : uint8_t {
  kParameters,
  kGradients,
  kOptimizer,
  kActivations,
  kData,
  kGathered,    // whole parameters of units whose parameters are sharded over ranks
  kCheckpoint,  // snapshots of an asynchronous save
  kOther,       // workspace and everything not named
};
inline constexpr size_t kMemoryKinds = 8;
std::string_view to_string(MemoryKind kind);  // "parameters"

struct MemoryUsage {
  int64_t current_bytes = 0;
  int64_t peak_bytes = 0;
};

MemoryUsage memory_usage(MemoryKind kind);
void reset_memory_peaks();                              // peak = current, for benches and tests
void count_allocation(MemoryKind kind, int64_t bytes);  // negative for a release

// The kind given to libtorch allocations made by this thread while the scope lives.
class MemoryScope {
 public:
  explicit MemoryScope(MemoryKind kind);
  ~MemoryScope();
  MemoryScope(const MemoryScope&) = delete;
  MemoryScope& operator=(const MemoryScope&) = delete;
  static MemoryKind current();  // kOther outside any scope

 private:
  MemoryKind previous_;
};

// 64-byte-aligned, counted, move only.  Throws Error{resource_exhausted} when memory is short.
class CountedBuffer {
 public:
  CountedBuffer() = default;
  CountedBuffer(size_t bytes, MemoryKind kind);
  ~CountedBuffer();
  CountedBuffer(CountedBuffer&& other) noexcept;
  CountedBuffer& operator=(CountedBuffer&& other) noexcept;

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
  MemoryKind kind_ = MemoryKind::kOther;
};

int64_t peak_rss_bytes();  // VmHWM of this process

}  // namespace furrow
