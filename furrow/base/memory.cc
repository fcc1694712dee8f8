#include "furrow/base/memory.h"

#include <fmt/format.h>

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <string>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/huge_pages.h"
#include "furrow/base/process.h"

namespace furrow {
namespace {

// One cache line per kind: allocators of several threads count at once.
struct alignas(64) Counter {
  std::atomic<int64_t> current{0};
  std::atomic<int64_t> peak{0};
};

Counter counters[kMemoryKinds];
thread_local MemoryKind current_kind = MemoryKind::kOther;

Counter& counter(MemoryKind kind) { return counters[static_cast<size_t>(kind)]; }

}  // namespace

std::string_view to_string(MemoryKind kind) {
  constexpr std::string_view names[kMemoryKinds] = {"parameters", "gradients", "optimizer",  "activations",
                                                    "data",       "gathered",  "checkpoint", "other"};
  return names[static_cast<size_t>(kind)];
}

MemoryUsage memory_usage(MemoryKind kind) {
  return {counter(kind).current.load(std::memory_order_relaxed),
          counter(kind).peak.load(std::memory_order_relaxed)};
}

void reset_memory_peaks() {
  for (Counter& each : counters) each.peak.store(each.current.load());
}

void count_allocation(MemoryKind kind, int64_t bytes) {
  Counter& target = counter(kind);
  const int64_t now = target.current.fetch_add(bytes, std::memory_order_relaxed) + bytes;
  int64_t peak = target.peak.load(std::memory_order_relaxed);
  while (now > peak && !target.peak.compare_exchange_weak(peak, now, std::memory_order_relaxed)) {
  }
}

MemoryScope::MemoryScope(MemoryKind kind) : previous_(std::exchange(current_kind, kind)) {}
MemoryScope::~MemoryScope() { current_kind = previous_; }
MemoryKind MemoryScope::current() { return current_kind; }

CountedBuffer::CountedBuffer(size_t bytes, MemoryKind kind) : size_(bytes), kind_(kind) {
  if (bytes == 0) return;
  static const uint64_t machine_bytes = total_memory_bytes();
  // More than the machine has is refused here: the kernel might promise it and kill the process later.
  void* memory = bytes <= machine_bytes ? allocate_memory(bytes) : nullptr;
  if (memory == nullptr) {
    throw Error(ErrorCode::kResourceExhausted,
                fmt::format("no memory for {} bytes of {}: use a smaller model, batch or data set", bytes,
                            to_string(kind)));
  }
  data_ = static_cast<std::byte*>(memory);
  count_allocation(kind_, static_cast<int64_t>(size_));
}

CountedBuffer::~CountedBuffer() {
  if (data_ == nullptr) return;
  free_memory(data_, size_);
  count_allocation(kind_, -static_cast<int64_t>(size_));
}

CountedBuffer::CountedBuffer(CountedBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)), kind_(other.kind_) {}

CountedBuffer& CountedBuffer::operator=(CountedBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(kind_, other.kind_);
  return *this;
}

int64_t peak_rss_bytes() {
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line)) {
    if (line.rfind("VmHWM:", 0) == 0) return std::strtoll(line.c_str() + 6, nullptr, 10) * 1024;
  }
  return 0;
}

}  // namespace furrow
