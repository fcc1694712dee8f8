#include "furrow/data/shared_rows.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/memory.h"
#include "furrow/base/text.h"

namespace furrow::data {
namespace {

constexpr size_t kCell = 4;

// What shared memory begins with.
struct Head {
  static constexpr std::array<char, 8> kMagic{'F', 'U', 'R', 'R', 'O', 'W', 'C', '1'};
  std::array<char, 8> magic = kMagic;
  uint64_t token = 0;  // of no other memory
  uint64_t width = 0;
  std::array<int64_t, 3> rows{};
};
constexpr size_t kHeadBytes = 64;  // cells are aligned
static_assert(sizeof(Head) <= kHeadBytes);

class OwnMemory : public RowMemory {
 public:
  OwnMemory(const std::array<int64_t, 3>& rows, size_t width)
      : RowMemory(rows, width), buffer_(cell_bytes(), MemoryKind::kData) {
    cells_ = buffer_.data();
  }
  std::string place() const override { return ""; }

 private:
  CountedBuffer buffer_;
};

// A mapping of an open file; closes both.
class Mapping {
 public:
  Mapping(int file, size_t bytes, bool writes) : file_(file), bytes_(bytes) {
    void* const at = ::mmap(nullptr, bytes, writes ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, file, 0);
    if (at != MAP_FAILED) data_ = static_cast<std::byte*>(at);
  }
  ~Mapping() {
    if (data_ != nullptr) ::munmap(data_, bytes_);
    ::close(file_);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  std::byte* data() const { return data_; }  // null: it failed
  size_t bytes() const { return bytes_; }
  int file() const { return file_; }

 private:
  int file_;
  size_t bytes_;
  std::byte* data_ = nullptr;
};

// Counted where it was made alone: it lies once.
class SharedMemory : public RowMemory {
 public:
  SharedMemory(const std::array<int64_t, 3>& rows, size_t width)
      : RowMemory(rows, width),
        mapping_(file_of(kHeadBytes + cell_bytes()), kHeadBytes + cell_bytes(), true) {
    if (mapping_.data() == nullptr) throw errno_error(errno, "map", "the rows of a table");
    Head head{.token = 0, .width = width, .rows = rows};
    if (::getrandom(&head.token, sizeof head.token, 0) != sizeof head.token)
      throw errno_error(errno, "read", "random bytes");
    std::memcpy(mapping_.data(), &head, sizeof head);
    token_ = head.token;
    cells_ = mapping_.data() + kHeadBytes;
    count_allocation(MemoryKind::kData, static_cast<int64_t>(mapping_.bytes()));
  }
  ~SharedMemory() override { count_allocation(MemoryKind::kData, -static_cast<int64_t>(mapping_.bytes())); }
  std::string place() const override {
    return fmt::format("/proc/{}/fd/{} {}", ::getpid(), mapping_.file(), token_);
  }

 private:
  static int file_of(size_t bytes) {
    const int file = ::memfd_create("furrow-rows", MFD_CLOEXEC);
    if (file < 0) throw errno_error(errno, "make", "memory for the rows of a table");
    if (::ftruncate(file, static_cast<off_t>(bytes)) == 0) return file;
    const int error = errno;
    ::close(file);
    throw errno_error(error, "make", "memory for the rows of a table");
  }

  Mapping mapping_;
  uint64_t token_ = 0;
};

class MappedMemory : public RowMemory {
 public:
  MappedMemory(std::unique_ptr<Mapping> mapping, const Head& head)
      : RowMemory(head.rows, head.width), mapping_(std::move(mapping)) {
    cells_ = mapping_->data() + kHeadBytes;
  }
  std::string place() const override { return ""; }
  // Whether the memory has what its head says.
  bool whole() const { return mapping_->bytes() == kHeadBytes + cell_bytes(); }

 private:
  std::unique_ptr<Mapping> mapping_;
};

// Bounds that keep products of rows and cells in range.
bool plausible(const Head& head) {
  for (const int64_t rows : head.rows) {
    if (rows < 0 || rows > int64_t{1} << 40) return false;
  }
  return head.width < uint64_t{1} << 20;
}

}  // namespace

size_t RowMemory::cell_bytes() const {
  return static_cast<size_t>(rows_[0] + rows_[1] + rows_[2]) * width_ * kCell;
}

std::span<std::byte> RowMemory::split(size_t split) const {
  int64_t before = 0;
  for (size_t i = 0; i < split; ++i) before += rows_[i];
  return {cells_ + static_cast<size_t>(before) * width_ * kCell,
          static_cast<size_t>(rows_[split]) * width_ * kCell};
}

std::shared_ptr<RowMemory> RowMemory::make(const std::array<int64_t, 3>& rows, size_t width, bool shared) {
  if (shared) return std::make_shared<SharedMemory>(rows, width);
  return std::make_shared<OwnMemory>(rows, width);
}

std::shared_ptr<RowMemory> RowMemory::map(const std::string& place, size_t width) {
  const std::vector<std::string> words = furrow::split(place, ' ');
  if (words.size() != 2) return nullptr;
  const int file = ::open(words[0].c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return nullptr;
  struct stat status{};
  const bool known = ::fstat(file, &status) == 0 && S_ISREG(status.st_mode);
  const size_t bytes = known ? static_cast<size_t>(status.st_size) : 0;
  if (bytes < kHeadBytes) {
    ::close(file);
    return nullptr;
  }
  auto mapping = std::make_unique<Mapping>(file, bytes, false);
  if (mapping->data() == nullptr) return nullptr;
  Head head;
  std::memcpy(&head, mapping->data(), sizeof head);
  if (head.magic != Head::kMagic || fmt::format("{}", head.token) != words[1] || head.width != width ||
      !plausible(head))
    return nullptr;
  const auto memory = std::make_shared<MappedMemory>(std::move(mapping), head);
  return memory->whole() ? memory : nullptr;
}

}  // namespace furrow::data
