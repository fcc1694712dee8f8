#include "furrow/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "furrow/base/descriptor.h"
#include "furrow/base/failpoint.h"

namespace furrow {
namespace {

namespace fs = std::filesystem;

ErrorCode code_of(int error_number) {
  switch (error_number) {
    case ENOENT:
    case ENOTDIR:
      return ErrorCode::kNotFound;
    case EEXIST:
      return ErrorCode::kAlreadyExists;
    case EACCES:
    case EPERM:
    case EROFS:
      return ErrorCode::kPermissionDenied;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      return ErrorCode::kResourceExhausted;
    case EIO:
      return ErrorCode::kDataLoss;
    case EINVAL:
    case EISDIR:
    case ENAMETOOLONG:
      return ErrorCode::kInvalidArgument;
    default:
      return ErrorCode::kUnavailable;
  }
}

std::string_view remedy_of(int error_number) {
  switch (error_number) {
    case ENOENT:
      return ": check the path";
    case ENOSPC:
    case EDQUOT:
      return ": free space there or choose another folder";
    case EACCES:
    case EPERM:
    case EROFS:
      return ": choose a folder that you may write, or change its permissions";
    default:
      return "";
  }
}

// Closes on scope exit.

int open_or_throw(const std::string& path, int flags, std::string_view action) {
  const int descriptor = ::open(path.c_str(), flags | O_CLOEXEC, 0666);
  if (descriptor < 0) throw errno_error(errno, action, path);
  return descriptor;
}

uint64_t file_size(int descriptor, const std::string& path) {
  struct stat info{};
  if (::fstat(descriptor, &info) != 0) throw errno_error(errno, "read", path);
  if (S_ISDIR(info.st_mode)) throw errno_error(EISDIR, "read", path);
  return static_cast<uint64_t>(info.st_size);
}

std::string temporary_name(const std::string& path) {
  static std::atomic<uint64_t> counter{0};
  return fmt::format("{}.tmp-{}-{}", path, ::getpid(), counter.fetch_add(1));
}

}  // namespace

Error errno_error(int error_number, std::string_view action, const std::string& path) {
  const std::string reason = std::error_code(error_number, std::generic_category()).message();
  return {code_of(error_number),
          fmt::format("cannot {} {}: {}{}", action, path, reason, remedy_of(error_number))};
}

void write_all(int descriptor, std::span<const std::byte> bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) throw errno_error(errno, "write", path);
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

size_t read_at(int descriptor, uint64_t offset, std::span<std::byte> out, const std::string& path) {
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t got =
        ::pread(descriptor, out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw errno_error(errno, "read", path);
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  return done;
}

std::string read_file(const std::string& path, uint64_t max_bytes) {
  const Descriptor file(open_or_throw(path, O_RDONLY, "read"));
  std::string text;
  const uint64_t expected = file_size(file.get(), path);
  const auto too_large = [&](uint64_t size) { return max_bytes != 0 && size > max_bytes; };
  if (!too_large(expected)) text.reserve(expected);
  char chunk[1 << 16];
  while (!too_large(expected) && !too_large(text.size())) {
    const ssize_t count = ::read(file.get(), chunk, sizeof(chunk));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw errno_error(errno, "read", path);
    if (count == 0) return text;
    text.append(chunk, static_cast<size_t>(count));
  }
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("{} is larger than the {} bytes that such a file may have", path, max_bytes));
}

void write_file_atomic(const std::string& path, std::span<const std::byte> bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

void write_file_atomic(const std::string& path, std::string_view text) {
  write_file_atomic(path, std::as_bytes(std::span(text)));
}

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)), temporary_(temporary_name(path_)) {
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (descriptor_ < 0) throw errno_error(errno, "create", path_);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  FURROW_FAILPOINT("file.write");
  write_all(descriptor_, bytes, path_);
  size_ += bytes.size();
}

void AtomicFile::write(std::string_view text) { write(std::as_bytes(std::span(text))); }

void AtomicFile::write_at(uint64_t offset, std::span<const std::byte> bytes) {
  FURROW_FAILPOINT("file.write");
  FURROW_CHECK(offset <= size_ && bytes.size() <= size_ - offset, "write_at outside what was written");
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) throw errno_error(errno, "write", path_);
    offset += static_cast<uint64_t>(written);
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

void AtomicFile::extend(uint64_t bytes) {
  if (::ftruncate(descriptor_, static_cast<off_t>(size_ + bytes)) != 0)
    throw errno_error(errno, "extend", path_);
  if (::lseek(descriptor_, 0, SEEK_END) < 0) throw errno_error(errno, "extend", path_);
  size_ += bytes;
}

void AtomicFile::commit() {
  FURROW_CHECK(descriptor_ >= 0, "an atomic file is committed once");
  if (::fsync(descriptor_) != 0) throw errno_error(errno, "write", path_);
  FURROW_FAILPOINT("file.before_rename");
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) throw errno_error(errno, "replace", path_);
  ::close(std::exchange(descriptor_, -1));
  FURROW_FAILPOINT("file.after_rename");
  sync_directory(parent_directory(path_));
}

MappedFile::MappedFile(const std::string& path) : path_(path) {
  const Descriptor file(open_or_throw(path, O_RDONLY, "read"));
  size_ = file_size(file.get(), path);
  if (size_ == 0) return;
  void* memory = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (memory == MAP_FAILED) throw errno_error(errno, "map", path);
  data_ = static_cast<const std::byte*>(memory);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

bool path_exists(const std::string& path) {
  struct stat info{};
  return ::stat(path.c_str(), &info) == 0;
}

void make_directories(const std::string& path) {
  struct stat info{};
  if (::stat(path.c_str(), &info) == 0) {
    if (!S_ISDIR(info.st_mode)) throw errno_error(EEXIST, "create folder", path);
    return;
  }
  const std::string parent = parent_directory(path);
  if (parent != path) make_directories(parent);
  if (::mkdir(path.c_str(), 0777) != 0 && errno != EEXIST) throw errno_error(errno, "create folder", path);
  sync_directory(parent);
}

void sync_directory(const std::string& path) {
  const Descriptor folder(open_or_throw(path, O_RDONLY | O_DIRECTORY, "open folder"));
  if (::fsync(folder.get()) != 0 && errno != EINVAL) throw errno_error(errno, "write folder", path);
}

void rename_durably(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) throw errno_error(errno, "rename " + from + " to", to);
  const std::string target = parent_directory(to), source = parent_directory(from);
  sync_directory(target);
  if (source != target) sync_directory(source);
}

void replace_directory(const std::string& from, const std::string& to) {
  if (!path_exists(to)) {
    rename_durably(from, to);
    return;
  }
  std::string old = from;
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) != 0) {
    if (errno != EINVAL && errno != ENOSYS) throw errno_error(errno, "replace", to);
    old = temporary_name(to);
    rename_durably(to, old);
    rename_durably(from, to);
  }
  sync_directory(parent_directory(to));
  remove_all(old);
}

void remove_all(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) throw errno_error(error.value(), "remove", path);
}

std::string parent_directory(const std::string& path) {
  const fs::path given(path);
  const fs::path trimmed = given.has_filename() ? given : given.parent_path();
  const std::string parent = trimmed.parent_path().string();
  return parent.empty() ? "." : parent;
}

AppendFile::AppendFile(std::string path, bool truncate) : path_(std::move(path)) {
  const int flags = O_WRONLY | O_CREAT | O_APPEND | (truncate ? O_TRUNC : 0);
  descriptor_ = open_or_throw(path_, flags, "create");
}

AppendFile::~AppendFile() { ::close(descriptor_); }

void AppendFile::append(std::string_view text) {
  write_all(descriptor_, std::as_bytes(std::span(text)), path_);
}

void AppendFile::sync() {
  if (::fsync(descriptor_) != 0) throw errno_error(errno, "write", path_);
}

}  // namespace furrow
