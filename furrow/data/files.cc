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
constexpr size_t kMostGzipInMemory = size_t{16} << 20;  // on the disk
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

// A plain file, or what is inflated as it comes.
class ContentStream::Plain {
 public:
  Plain(const fs::path& path, bool gzip) : path_(path), file_(path) {
    if (!gzip) return;
    inflate_ = std::make_unique<GzipStream>(
        [this](std::span<std::byte> out) { return read_start(file_, path_, out); });
  }

  // Of what is inflated about: as if all of it shrank like what has come.
  uint64_t size() const {
    const uint64_t bytes = file_size(file_, path_);
    if (inflate_ == nullptr || inflate_->consumed() == 0) return bytes;
    const double ratio = static_cast<double>(inflated_) / static_cast<double>(inflate_->consumed());
    return static_cast<uint64_t>(ratio * static_cast<double>(bytes));
  }

  size_t read(std::span<std::byte> out) {
    if (inflate_ == nullptr) return read_start(file_, path_, out);
    try {
      const size_t got = inflate_->read(out);
      inflated_ += got;
      return got;
    } catch (const Error& error) {
      throw error.with_context(path_.string());
    }
  }

  void skip(uint64_t bytes) {
    if (inflate_ == nullptr) {
      if (::lseek(file_.get(), static_cast<off_t>(bytes), SEEK_CUR) < 0) fail(path_, "read", errno);
      return;
    }
    std::vector<std::byte> passed(std::min<uint64_t>(bytes, uint64_t{1} << 20));
    while (bytes > 0) {
      const size_t got = read(std::span(passed).first(std::min<uint64_t>(bytes, passed.size())));
      if (got == 0) return;
      bytes -= got;
    }
  }

 private:
  fs::path path_;
  Descriptor file_;
  std::unique_ptr<GzipStream> inflate_;
  uint64_t inflated_ = 0;
};

ContentStream::ContentStream(const fs::path& path) {
  std::byte magic[2];
  const Descriptor file(path);
  const bool gzip = is_gzip({magic, read_start(file, path, magic)});
  if (gzip && file_size(file, path) <= kMostGzipInMemory) {
    bytes_ = read_contents(path);
  } else {
    plain_ = std::make_unique<Plain>(path, gzip);
  }
}

ContentStream::~ContentStream() = default;

uint64_t ContentStream::size() const { return plain_ != nullptr ? plain_->size() : bytes_.contents.size(); }

size_t ContentStream::read(std::span<std::byte> out) {
  if (plain_ != nullptr) return plain_->read(out);
  const auto part = bytes_.contents.subspan(at_, std::min<size_t>(out.size(), bytes_.contents.size() - at_));
  std::ranges::copy(part, out.begin());
  at_ += part.size();
  return part.size();
}

void ContentStream::skip(uint64_t bytes) {
  if (plain_ != nullptr) return plain_->skip(bytes);
  at_ += std::min(bytes, bytes_.contents.size() - at_);
}

class RandomFile::Plain {
 public:
  explicit Plain(const fs::path& path) : path_(path), file_(path) {}
  uint64_t size() const { return file_size(file_, path_); }
  size_t read_at(uint64_t offset, std::span<std::byte> out) const {
    size_t done = 0;
    while (done < out.size()) {
      const ssize_t got =
          ::pread(file_.get(), out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) fail(path_, "read", errno);
      if (got == 0) break;
      done += static_cast<size_t>(got);
    }
    return done;
  }

 private:
  fs::path path_;
  Descriptor file_;
};

RandomFile::RandomFile(const fs::path& path) : plain_(std::make_unique<Plain>(path)) {
  size_ = plain_->size();
  std::byte magic[2];
  if (!is_gzip({magic, plain_->read_at(0, magic)})) return;
  plain_ = nullptr;
  bytes_ = read_contents(path);
  size_ = bytes_.contents.size();
}

RandomFile::~RandomFile() = default;

size_t RandomFile::read_at(uint64_t offset, std::span<std::byte> out) const {
  if (plain_ != nullptr) return plain_->read_at(offset, out);
  const auto part = bytes_.contents.subspan(std::min<uint64_t>(offset, size_));
  const size_t count = std::min(out.size(), part.size());
  std::ranges::copy(part.first(count), out.begin());
  return count;
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
