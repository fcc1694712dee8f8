#include "furrow/data/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/data/gzip.h"

namespace furrow::data {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kGzip = ".gz";
constexpr const char* kRemedy =
    "set [training] dataset_path; docs/datasets.md says where each data set comes from";

bool is_file(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored) && !fs::is_directory(path, ignored);
}

// The other spelling of `path`: with ".gz", or without it.
fs::path other_spelling(const fs::path& path) {
  const std::string text = path.string();
  return text.ends_with(kGzip) ? fs::path(text.substr(0, text.size() - kGzip.size()))
                               : fs::path(text + std::string(kGzip));
}

[[noreturn]] void fail(const fs::path& path, const char* action, int error) {
  throw errno_error(error, action, path.string());
}

class Descriptor {
 public:
  explicit Descriptor(const fs::path& path) : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (fd_ < 0) fail(path, "open", errno);
  }
  ~Descriptor() { ::close(fd_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

// Reads up to out.size() bytes from where the file is, at first its start; returns how many there are.
size_t read_start(const Descriptor& file, const fs::path& path, std::span<std::byte> out) {
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t got = ::read(file.get(), out.data() + done, out.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(path, "read", errno);
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  return done;
}

size_t file_size(const Descriptor& file, const fs::path& path) {
  struct stat status{};
  if (::fstat(file.get(), &status) != 0) fail(path, "read", errno);
  if (!S_ISREG(status.st_mode)) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} is not a regular file; {}", path.string(), kRemedy));
  }
  return static_cast<size_t>(status.st_size);
}

}  // namespace

CountedBuffer allocate_data(size_t bytes) {
  constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
  CountedBuffer buffer(bytes, MemoryKind::kData);
  const uintptr_t start = reinterpret_cast<uintptr_t>(buffer.data());
  const uintptr_t begin = (start + kHugePage - 1) & ~(kHugePage - 1),
                  end = (start + bytes) & ~(kHugePage - 1);
  // A hint: a refusal does no harm.
  if (end > begin) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
  return buffer;
}

fs::path find_file(const fs::path& path) {
  if (is_file(path)) return path;
  const fs::path other = other_spelling(path);
  return is_file(other) ? other : fs::path();
}

fs::path require_file(const fs::path& path) {
  fs::path found = find_file(path);
  if (!found.empty()) return found;
  throw Error(ErrorCode::kNotFound,
              fmt::format("no file {} (nor {}): {}", path.string(), other_spelling(path).string(), kRemedy));
}

Bytes read_file(const fs::path& path) {
  const Descriptor file(path);
  Bytes bytes{allocate_data(file_size(file, path)), {}};
  // A file that is shortened meanwhile ends early: its format's reader judges what is left.
  const size_t done = read_start(file, path, {bytes.buffer.data(), bytes.buffer.size()});
  bytes.contents = {bytes.buffer.data(), done};
  return bytes;
}

Bytes read_contents(const fs::path& path) {
  Bytes bytes = read_file(path);
  if (!is_gzip(bytes.contents)) return bytes;
  try {
    return gunzip(bytes.contents);
  } catch (const Error& error) {
    throw error.with_context(path.string());
  }
}

class ContentStream::Plain {
 public:
  explicit Plain(const fs::path& path) : path_(path), file_(path) {}
  uint64_t size() const { return file_size(file_, path_); }
  size_t read(std::span<std::byte> out) { return read_start(file_, path_, out); }

 private:
  fs::path path_;
  Descriptor file_;
};

ContentStream::ContentStream(const fs::path& path) {
  std::byte magic[2];
  const size_t start = read_start(Descriptor(path), path, magic);
  if (is_gzip({magic, start})) {
    bytes_ = read_contents(path);
    size_ = bytes_.contents.size();
  } else {
    plain_ = std::make_unique<Plain>(path);
    size_ = plain_->size();
  }
}

ContentStream::~ContentStream() = default;

size_t ContentStream::read(std::span<std::byte> out) {
  if (plain_ != nullptr) return plain_->read(out);
  const auto part = bytes_.contents.subspan(at_, std::min<size_t>(out.size(), size_ - at_));
  std::ranges::copy(part, out.begin());
  at_ += part.size();
  return part.size();
}

std::vector<uint8_t> read_prefix(const fs::path& path, size_t length) {
  const Descriptor file(path);
  constexpr size_t kCompressed = 65536;  // more than a gzip header and the first block's tables need
  std::vector<std::byte> start(std::min(file_size(file, path), std::max(length, kCompressed)));
  start.resize(read_start(file, path, start));
  try {
    if (is_gzip(start)) return gunzip_prefix(start, length);
  } catch (const Error& error) {
    throw error.with_context(path.string());
  }
  start.resize(std::min(start.size(), length));
  const auto* const bytes = reinterpret_cast<const uint8_t*>(start.data());
  return {bytes, bytes + start.size()};
}

}  // namespace furrow::data
