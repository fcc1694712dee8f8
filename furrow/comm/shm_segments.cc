#include "furrow/comm/shm_segments.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "furrow/base/error.h"
#include "furrow/comm/descriptors.h"

namespace furrow::comm {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kSegmentBytes = 64 << 20;  // pages that nobody touched cost nothing
constexpr size_t kLargePage =
    2 << 20;                   // of x86-64, and of Arm with pages of 4 KiB; elsewhere it is only a unit
constexpr int kCollapse = 25;  // MADV_COLLAPSE of Linux 6.1, which Debian 12's C library does not name

size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

}  // namespace

SharedFile::SharedFile(const char* name, size_t bytes) : size_(bytes) {
  descriptor_ = memfd_create(name, MFD_CLOEXEC);
  if (descriptor_ < 0 || ftruncate(descriptor_, static_cast<off_t>(bytes)) != 0) {
    const int error = errno;
    if (descriptor_ >= 0) ::close(descriptor_);
    if (out_of_descriptors(error)) throw descriptor_error(error, "make shared memory");
    throw Error(ErrorCode::kResourceExhausted,
                fmt::format("cannot make {} bytes of shared memory: {}", bytes, std::strerror(error)));
  }
  map(descriptor_, "own shared memory");
}

SharedFile::SharedFile(int64_t pid, int descriptor, size_t bytes) : size_(bytes) {
  const std::string path = fmt::format("/proc/{}/fd/{}", pid, descriptor);
  const int opened = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (opened < 0) {
    const int error = errno;
    if (out_of_descriptors(error)) throw descriptor_error(error, "see the memory of another rank");
    throw Error(ErrorCode::kUnavailable,
                fmt::format("cannot see the memory of process {} ({}): {}", pid, path, std::strerror(error)));
  }
  struct stat status = {};
  if (fstat(opened, &status) != 0 || status.st_size != static_cast<off_t>(bytes)) {
    ::close(opened);
    throw Error(ErrorCode::kUnavailable, fmt::format("{} is not the memory that was announced", path));
  }
  map(opened, path);
  ::close(opened);
  descriptor_ = -1;
}

// At a multiple of a large page, since the system maps large pages only where memory and file lie alike in
// them.
void SharedFile::map(int descriptor, const std::string& what) {
  const size_t mapped = round_up(size_, kPage), spare = size_ < kLargePage ? 0 : kLargePage;
  void* reserved =
      mmap(nullptr, mapped + spare, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  std::byte* data = nullptr;
  if (reserved != MAP_FAILED) {
    auto* const begin = static_cast<std::byte*>(reserved);
    const auto address = reinterpret_cast<size_t>(reserved);
    data = spare == 0 ? begin : begin + (round_up(address, kLargePage) - address);
    if (data > begin) munmap(begin, static_cast<size_t>(data - begin));
    if (begin + spare > data) munmap(data + mapped, static_cast<size_t>(begin + spare - data));
  }
  if (data == nullptr ||
      mmap(data, size_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, descriptor, 0) == MAP_FAILED) {
    const int error = errno;
    if (data != nullptr) munmap(data, mapped);
    ::close(descriptor);
    throw Error(ErrorCode::kResourceExhausted, fmt::format("cannot map {}: {}", what, std::strerror(error)));
  }
  data_ = data;
}

// By request, since most systems give shared memory none by themselves (/sys/kernel/mm/transparent_hugepage/
// shmem_enabled).  A refusal leaves the small pages: a system before Linux 6.1, no large page free, `deny`.
void SharedFile::use_large_pages(size_t begin, size_t end) {
  begin = round_up(begin, kLargePage);
  end = end / kLargePage * kLargePage;
  if (begin >= end) return;
  for (size_t at = begin; at < end; at += kLargePage) data_[at] = std::byte{0};  // a hole is not collapsed
  madvise(data_ + begin, end - begin, kCollapse);
}

SharedFile::~SharedFile() {
  munmap(data_, size_);
  if (descriptor_ >= 0) ::close(descriptor_);
}

void SharedFile::release_pages(size_t begin, size_t end) {
  begin = round_up(begin, kPage);
  end = end / kPage * kPage;
  if (begin >= end) return;
  fallocate(descriptor_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(begin),
            static_cast<off_t>(end - begin));
}

class SegmentPool::Block : public Memory::Block {
 public:
  Block(std::shared_ptr<SegmentPool> pool, std::span<std::byte> bytes)
      : pool_(std::move(pool)), bytes_(bytes) {}
  ~Block() override { pool_->release(bytes_.data(), bytes_.size()); }
  std::span<std::byte> bytes() const override { return bytes_; }

 private:
  std::shared_ptr<SegmentPool> pool_;
  std::span<std::byte> bytes_;
};

std::unique_ptr<Memory::Block> SegmentPool::allocate(size_t bytes) {
  const size_t room = round_up(std::max<size_t>(bytes, 1), bytes >= kPage ? kPage : 64);
  SharedFile* file = nullptr;
  size_t begin = 0;
  {
    const std::lock_guard lock(mutex_);
    for (auto& [base, segment] : segments_) {
      const std::optional<size_t> place = take(segment, room);
      if (!place) continue;
      file = segment.file.get();
      begin = *place;
      break;
    }
    if (file == nullptr) {
      Segment& segment = add_segment(std::max(room, kSegmentBytes));
      file = segment.file.get();
      begin = *take(segment, room);
    }
  }
  file->use_large_pages(begin, begin + room);
  std::memset(file->data() + begin, 0, room);
  return std::make_unique<Block>(shared_from_this(), std::span(file->data() + begin, room));
}

std::optional<size_t> SegmentPool::take(Segment& segment, size_t bytes) {
  const size_t unit = bytes >= kLargePage ? kLargePage : bytes >= kPage ? kPage : 64;
  for (const auto& [begin, end] : segment.free) {
    const size_t aligned = round_up(begin, unit);
    if (aligned + bytes > end) continue;
    const size_t free_begin = begin, free_end = end;
    segment.free.erase(free_begin);
    if (aligned > free_begin) segment.free[free_begin] = aligned;
    if (aligned + bytes < free_end) segment.free[aligned + bytes] = free_end;
    segment.used += bytes;
    return aligned;
  }
  return std::nullopt;
}

SegmentPool::Segment& SegmentPool::add_segment(size_t bytes) {
  for (uint32_t i = 0; i < kSegments; ++i) {
    SegmentEntry& entry = control_->segments[i];
    if (entry.id.load() != 0) continue;
    Segment segment;
    segment.file = std::make_unique<SharedFile>("furrow-memory", round_up(bytes, kPage));
    segment.id = ++made_ * kSegments + i;
    segment.free[0] = segment.file->size();
    entry.descriptor.store(segment.file->descriptor());
    entry.bytes.store(segment.file->size());
    entry.id.store(segment.id);
    const std::byte* base = segment.file->data();
    return segments_[base] = std::move(segment);
  }
  throw Error(
      ErrorCode::kResourceExhausted,
      fmt::format("more than {} segments of shared memory: allocate fewer, larger buffers", kSegments));
}

void SegmentPool::release(std::byte* data, size_t bytes) {
  const std::lock_guard lock(mutex_);
  const auto found = std::prev(segments_.upper_bound(data));
  Segment& segment = found->second;
  segment.used -= bytes;
  if (segment.used == 0 && segments_.size() > 1) {
    control_->segments[segment.id % kSegments].id.store(0);
    segments_.erase(found);
    return;
  }
  size_t begin = static_cast<size_t>(data - segment.file->data()), end = begin + bytes;
  segment.file->release_pages(begin, end);
  const auto next = segment.free.find(end);
  if (next != segment.free.end()) {
    end = next->second;
    segment.free.erase(next);
  }
  const auto after = segment.free.lower_bound(begin);
  if (after != segment.free.begin() && std::prev(after)->second == begin) {
    std::prev(after)->second = end;
  } else {
    segment.free[begin] = end;
  }
}

std::optional<SegmentPool::Place> SegmentPool::locate(std::span<const std::byte> bytes) const {
  const std::lock_guard lock(mutex_);
  const auto after = segments_.upper_bound(bytes.data());
  if (after == segments_.begin()) return std::nullopt;
  const Segment& segment = std::prev(after)->second;
  const auto offset = static_cast<size_t>(bytes.data() - segment.file->data());
  if (offset + bytes.size() > segment.file->size()) return std::nullopt;
  return Place{segment.id, offset};
}

}  // namespace furrow::comm
