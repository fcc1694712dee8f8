#include "furrow/data/shared_memory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "furrow/base/descriptor.h"
#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/memory.h"
#include "furrow/base/text.h"

namespace furrow::data {

// What it begins with.
struct SharedMemory::Head {
  static constexpr std::array<char, 8> kMagic{'F', 'U', 'R', 'R', 'O', 'W', 'M', '1'};
  static constexpr size_t kBytes = 64;  // what follows is aligned
  std::array<char, 8> magic = kMagic;
  uint64_t token = 0;  // of no other memory
  uint64_t bytes = 0;  // behind this
  About about{};
};

class SharedMemory::Mapping {
 public:
  Mapping(Descriptor file, size_t bytes, bool writes) : file_(std::move(file)), size_(bytes) {
    const int access = writes ? PROT_READ | PROT_WRITE : PROT_READ;
    void* const at = ::mmap(nullptr, bytes, access, MAP_SHARED, file_.get(), 0);
    if (at != MAP_FAILED) data_ = static_cast<std::byte*>(at);
  }
  ~Mapping() {
    if (data_ != nullptr) ::munmap(data_, size_);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  std::byte* data() const { return data_; }  // null: it failed
  size_t size() const { return size_; }
  int file() const { return file_.get(); }

 private:
  Descriptor file_;
  size_t size_;
  std::byte* data_ = nullptr;
};

namespace {

constexpr const char* kWhat = "memory that the processes of this host share";

Descriptor file_of(size_t bytes) {
  Descriptor file(::memfd_create("furrow-shared", MFD_CLOEXEC));
  if (!file.open() || ::ftruncate(file.get(), static_cast<off_t>(bytes)) != 0)
    throw errno_error(errno, "make", kWhat);
  return file;
}

}  // namespace

// Counted where it was made alone: it lies once.
SharedMemory::SharedMemory(std::unique_ptr<Mapping> mapping, const Head& head, bool made)
    : mapping_(std::move(mapping)),
      about_(head.about),
      bytes_(mapping_->data() + Head::kBytes, head.bytes),
      token_(head.token),
      made_(made) {
  if (made_) count_allocation(MemoryKind::kData, static_cast<int64_t>(mapping_->size()));
}

SharedMemory::~SharedMemory() {
  if (made_) count_allocation(MemoryKind::kData, -static_cast<int64_t>(mapping_->size()));
}

std::shared_ptr<SharedMemory> SharedMemory::make(const About& about, size_t bytes) {
  static_assert(sizeof(Head) <= Head::kBytes);
  const size_t all = Head::kBytes + bytes;
  auto mapping = std::make_unique<Mapping>(file_of(all), all, true);
  if (mapping->data() == nullptr) throw errno_error(errno, "map", kWhat);
  Head head{.bytes = bytes, .about = about};
  if (::getrandom(&head.token, sizeof head.token, 0) != sizeof head.token)
    throw errno_error(errno, "read", "random bytes");
  std::memcpy(mapping->data(), &head, sizeof head);
  return std::shared_ptr<SharedMemory>(new SharedMemory(std::move(mapping), head, true));
}

std::shared_ptr<const SharedMemory> SharedMemory::map(const std::string& place) {
  const std::vector<std::string> words = split(place, ' ');
  if (words.size() != 2) return nullptr;
  Descriptor file(::open(words[0].c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.open()) return nullptr;
  struct stat status{};
  const bool known = ::fstat(file.get(), &status) == 0 && S_ISREG(status.st_mode);
  const size_t bytes = known ? static_cast<size_t>(status.st_size) : 0;
  if (bytes < Head::kBytes) return nullptr;
  auto mapping = std::make_unique<Mapping>(std::move(file), bytes, false);
  if (mapping->data() == nullptr) return nullptr;
  Head head;
  std::memcpy(&head, mapping->data(), sizeof head);
  if (head.magic != Head::kMagic || fmt::format("{}", head.token) != words[1] ||
      head.bytes != bytes - Head::kBytes)
    return nullptr;
  return std::shared_ptr<const SharedMemory>(new SharedMemory(std::move(mapping), head, false));
}

std::string SharedMemory::place() const {
  return made_ ? fmt::format("/proc/{}/fd/{} {}", ::getpid(), mapping_->file(), token_) : "";
}

}  // namespace furrow::data
