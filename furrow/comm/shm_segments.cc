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

void SharedFile::map(int descriptor, const std::string& what) {
  void* data = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  if (data == MAP_FAILED) {
    const int error = errno;
    ::close(descriptor);
    throw Error(ErrorCode::kResourceExhausted, fmt::format("cannot map {}: {}", what, std::strerror(error)));
  }
  data_ = static_cast<std::byte*>(data);
  madvise(data, size_, MADV_HUGEPAGE);  // where the system has it for shared memory
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
  std::byte* data = nullptr;
  {
    const std::lock_guard lock(mutex_);
    for (auto& [base, segment] : segments_) {
      const std::optional<size_t> begin = take(segment, room);
      if (!begin) continue;
      data = segment.file->data() + *begin;
      break;
    }
    if (data == nullptr) {
      Segment& segment = add_segment(std::max(room, kSegmentBytes));
      data = segment.file->data() + *take(segment, room);
    }
  }
  std::memset(data, 0, room);
  return std::make_unique<Block>(shared_from_this(), std::span(data, room));
}

std::optional<size_t> SegmentPool::take(Segment& segment, size_t bytes) {
  const size_t unit = bytes >= kPage ? kPage : 64;
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
