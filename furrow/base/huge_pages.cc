#include "furrow/base/huge_pages.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <mutex>

namespace furrow {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kPage = size_t{4} << 10, kHugePage = size_t{2} << 20;
constexpr size_t kMappedAtOnce = size_t{32} << 20;  // address space; pages come as they are touched
constexpr size_t kKept = 2 * kMappedAtOnce;

constexpr size_t rounded_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

void unmap(uintptr_t begin, uintptr_t end) {
  if (begin < end) ::munmap(reinterpret_cast<void*>(begin), end - begin);
}

// So many bytes of whole huge pages; 0 where there are none.
uintptr_t map(size_t bytes) {
  const size_t room = bytes + kHugePage;
  void* memory = ::mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 0;
  const auto start = reinterpret_cast<uintptr_t>(memory), begin = rounded_up(start, kHugePage);
  unmap(start, begin);
  unmap(begin + bytes, start + room);
  // A hint: a refusal does no harm.
  ::madvise(reinterpret_cast<void*>(begin), bytes, MADV_HUGEPAGE);
  return begin;
}

// Mapped memory that nobody has.
class Pieces {
 public:
  uintptr_t take(size_t bytes) {
    const std::lock_guard lock(mutex_);
    auto best = free_.end();
    for (auto piece = free_.begin(); piece != free_.end(); ++piece) {
      if (piece->second >= bytes && (best == free_.end() || piece->second < best->second)) best = piece;
    }
    if (best == free_.end()) {
      const size_t mapped = std::max(rounded_up(bytes, kHugePage), kMappedAtOnce);
      const uintptr_t begin = map(mapped);
      if (begin == 0) return 0;
      best = add(begin, mapped);
    }
    const auto [begin, size] = *best;
    remove(best);
    if (size > bytes) add(begin + bytes, size - bytes);
    return begin;
  }

  void give(uintptr_t begin, size_t bytes) {
    const std::lock_guard lock(mutex_);
    const auto next = free_.lower_bound(begin);
    if (next != free_.end() && next->first == begin + bytes) {
      bytes += next->second;
      remove(next);
    }
    const auto after = free_.lower_bound(begin);
    if (after != free_.begin()) {
      const auto before = std::prev(after);
      if (before->first + before->second == begin) {
        begin = before->first;
        bytes += before->second;
        remove(before);
      }
    }
    const auto piece = add(begin, bytes);
    if (free_bytes_ > kKept) return_whole_pages(piece);
  }

 private:
  using Free = std::map<uintptr_t, size_t>;  // bytes by address; no two touch

  Free::iterator add(uintptr_t begin, size_t bytes) {
    free_bytes_ += bytes;
    return free_.emplace(begin, bytes).first;
  }
  void remove(Free::iterator piece) {
    free_bytes_ -= piece->second;
    free_.erase(piece);
  }
  void return_whole_pages(Free::iterator piece) {
    const uintptr_t begin = piece->first, end = begin + piece->second;
    const uintptr_t from = rounded_up(begin, kHugePage), to = end / kHugePage * kHugePage;
    if (from >= to) return;
    remove(piece);
    unmap(from, to);
    if (begin < from) add(begin, from - begin);
    if (to < end) add(to, end - to);
  }

  std::mutex mutex_;
  Free free_;
  size_t free_bytes_ = 0;
};

// Never destroyed: memory of static storage may be released after main.
Pieces& pieces() {
  static Pieces& instance = *new Pieces;
  return instance;
}

bool in_huge_pages(size_t bytes) { return kReusesMemory && bytes >= kLeastInHugePages; }

}  // namespace

void* allocate_memory(size_t bytes) {
  if (!in_huge_pages(bytes)) return std::aligned_alloc(kAlignment, rounded_up(bytes, kAlignment));
  return reinterpret_cast<void*>(pieces().take(rounded_up(bytes, kPage)));
}

void free_memory(void* memory, size_t bytes) {
  if (!in_huge_pages(bytes)) return std::free(memory);
  pieces().give(reinterpret_cast<uintptr_t>(memory), rounded_up(bytes, kPage));
}

}  // namespace furrow
