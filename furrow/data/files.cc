#include "furrow/data/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <system_error>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/data/decompress.h"
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

Descriptor open_to_read(const fs::path& path) {
  Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.open()) fail(path, "open", errno);
  return file;
}

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
  const Descriptor file = open_to_read(path);
  Bytes bytes{CountedBuffer(file_size(file, path), MemoryKind::kData), {}};
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

class ContentStream::File {
 public:
  explicit File(const fs::path& path) : path_(path), file_(open_to_read(path)) { file_size(file_, path_); }
  uint64_t taken() const { return taken_; }
  const fs::path& path() const { return path_; }

  size_t read(std::span<std::byte> out) {
    const size_t got = read_start(file_, path_, out);
    taken_ += got;
    return got;
  }

  // True: the file has so many bytes.
  bool go_to(uint64_t byte) {
    if (::lseek(file_.get(), static_cast<off_t>(byte), SEEK_SET) < 0) fail(path_, "read", errno);
    taken_ = byte;
    return byte <= file_size(file_, path_);
  }

 private:
  fs::path path_;
  Descriptor file_;
  uint64_t taken_ = 0;
};

ContentStream::ContentStream(const fs::path& path) : file_(std::make_unique<File>(path)) {
  std::byte magic[kMagicBytes];
  const Compression compression = compression_of({magic, file_->read(magic)});
  file_->go_to(0);
  if (compression == Compression::kNone) return;
  expand_ = decompressed(compression, [this](std::span<std::byte> out) { return file_->read(out); });
}

ContentStream::~ContentStream() = default;

uint64_t ContentStream::taken() const { return file_->taken(); }

size_t ContentStream::read(std::span<std::byte> out) { return expand_ ? expand_(out) : file_->read(out); }

void ContentStream::skip(uint64_t to, const std::function<void()>& between) {
  bool there = expand_ || file_->go_to(to);
  std::vector<std::byte> memory(expand_ ? std::min<uint64_t>(to, size_t{1} << 20) : 0);
  for (uint64_t at = 0; there && expand_ && at < to; at += memory.size()) {
    const auto piece = std::span(memory).first(std::min<uint64_t>(memory.size(), to - at));
    there = expand_(piece) == piece.size();
    between();
  }
  if (there) return;
  throw Error(ErrorCode::kDataLoss,
              fmt::format("{} has become shorter than byte {}, to which it was read before",
                          file_->path().string(), to));
}

class RandomFile::Plain {
 public:
  explicit Plain(const fs::path& path) : path_(path), file_(open_to_read(path)) {}
  Plain(const fs::path& path, Descriptor file) : path_(path), file_(std::move(file)) {}
  uint64_t size() const { return file_size(file_, path_); }
  size_t read_at(uint64_t offset, std::span<std::byte> out) const {
    return furrow::read_at(file_.get(), offset, out, path_.string());
  }

 private:
  fs::path path_;
  Descriptor file_;
};

namespace {

// What `path` expands to, in an open file that has no name any more.
Descriptor expanded(const fs::path& path, const std::function<void()>& between) {
  Descriptor file = open_nameless_file();
  ContentStream stream(path);
  std::vector<std::byte> piece(size_t{1} << 20);
  for (size_t got = piece.size(); got == piece.size();) {
    got = stream.read(piece);
    write_all(file.get(), std::span(piece).first(got), fs::temp_directory_path().string());
    if (between) between();
  }
  return file;
}

}  // namespace

RandomFile::RandomFile(const fs::path& path, const std::function<void()>& between)
    : plain_(std::make_unique<Plain>(path)) {
  std::byte magic[kMagicBytes];
  const size_t start = plain_->read_at(0, magic);
  if (compression_of({magic, start}) != Compression::kNone)
    plain_ = std::make_unique<Plain>(path, expanded(path, between));
  size_ = plain_->size();
}

RandomFile::~RandomFile() = default;

size_t RandomFile::read_at(uint64_t offset, std::span<std::byte> out) const {
  return plain_->read_at(offset, out);
}

Descriptor open_nameless_file() {
  std::error_code error;
  const fs::path folder = fs::temp_directory_path(error);
  if (error) throw errno_error(error.value(), "make a file in", "the folder that TMPDIR names");
  std::string name = (folder / "furrow-XXXXXX").string();
  Descriptor file(::mkostemp(name.data(), O_CLOEXEC));
  if (!file.open()) throw errno_error(errno, "make a file in", folder.string());
  ::unlink(name.c_str());
  return file;
}

std::string stamp_of(const fs::path& path) {
  return fmt::format("{} {} {}\n", path.string(), fs::file_size(path),
                     fs::last_write_time(path).time_since_epoch().count());
}

std::vector<uint8_t> read_prefix(const fs::path& path, size_t length) {
  const Descriptor file = open_to_read(path);
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
