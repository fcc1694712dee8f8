// Memory of this process that the other ranks of the host can map: memfds, which vanish with the last process
// that has them, however it ends.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "furrow/comm/memory.h"
#include "furrow/comm/shared_control.h"

namespace furrow::comm {

// A memfd, mapped.
class SharedFile {
 public:
  SharedFile(const char* name, size_t bytes);  // creates it, zeroed; Error{resource_exhausted}
  // Another process's descriptor.  Error{unavailable} when that process is gone or forbids it.
  SharedFile(int64_t pid, int descriptor, size_t bytes);
  ~SharedFile();
  SharedFile(const SharedFile&) = delete;
  SharedFile& operator=(const SharedFile&) = delete;

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  int descriptor() const { return descriptor_; }  // -1 of another process's
  void release_pages(size_t begin, size_t end);   // whole pages inside; they read as zero afterwards
  // Whole large pages inside, whose contents are lost, in this process and in whoever maps them later.
  void use_large_pages(size_t begin, size_t end);

 private:
  void map(int descriptor, const std::string& what);
  std::byte* data_ = nullptr;
  size_t size_ = 0;
  int descriptor_ = -1;
};

// Blocks cut from a few large memfds, listed in the rank's control block.  Thread safe.  Blocks keep it
// alive.
class SegmentPool : public std::enable_shared_from_this<SegmentPool> {
 public:
  explicit SegmentPool(std::shared_ptr<SharedFile> control_file, Control* control)
      : control_file_(std::move(control_file)), control_(control) {}

  std::unique_ptr<Memory::Block> allocate(size_t bytes);
  struct Place {
    uint32_t segment = 0;
    uint64_t offset = 0;
  };
  std::optional<Place> locate(std::span<const std::byte> bytes) const;

 private:
  class Block;
  struct Segment {
    std::unique_ptr<SharedFile> file;
    uint32_t id = 0;
    std::map<size_t, size_t> free;  // begin -> end
    size_t used = 0;
  };
  Segment& add_segment(size_t bytes);
  void release(std::byte* data, size_t bytes);
  static std::optional<size_t> take(Segment& segment, size_t bytes);

  const std::shared_ptr<SharedFile> control_file_;
  Control* const control_;
  mutable std::mutex mutex_;
  std::map<const std::byte*, Segment> segments_;  // by first byte
  uint32_t made_ = 0;
};

}  // namespace furrow::comm
