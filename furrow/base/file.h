// Files, durably.  Every error names the path and the reason of the system.
//
// Codes: ENOENT and ENOTDIR not_found, EEXIST already_exists, EACCES, EPERM and EROFS permission_denied,
// ENOSPC, EDQUOT, EFBIG, EMFILE and ENOMEM resource_exhausted, EIO data_loss, everything else unavailable.
// Functions are thread safe; an object belongs to one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "furrow/base/error.h"

namespace furrow {

// "cannot <action> <path>: <text of errno>: <remedy where there is one>".
Error errno_error(int error_number, std::string_view action, const std::string& path);

// Writes all of `bytes` to the open file, where it stands.  `path` is for the error alone.
void write_all(int descriptor, std::span<const std::byte> bytes, const std::string& path);

// The bytes of the open file from `offset` on, wherever it stands; how many came: fewer only at its end.
size_t read_at(int descriptor, uint64_t offset, std::span<std::byte> out, const std::string& path);

// The whole file.  `max_bytes` guards against reading something that cannot be meant (0: no limit).
std::string read_file(const std::string& path, uint64_t max_bytes = 0);

// All or nothing, and durable: a temporary file in the same folder, written and fsynced, renamed over `path`,
// then the folder fsynced.  After an error `path` is as before and no temporary file is left. Failpoints:
// file.write, file.before_rename, file.after_rename.
void write_file_atomic(const std::string& path, std::span<const std::byte> bytes);
void write_file_atomic(const std::string& path, std::string_view text);

// The same in pieces, for files larger than memory should hold.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path);  // creates the temporary file
  ~AtomicFile();                          // without commit: removes the temporary file
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);  // appends
  void write(std::string_view text);
  void write_at(uint64_t offset,
                std::span<const std::byte> bytes);  // offset within what is written; no append
  void extend(uint64_t bytes);  // appends zeros, which take no room before write_at() does
  void commit();                // fsync, rename, fsync of the folder; REQUIRES: called once
  uint64_t size() const { return size_; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  std::string temporary_;
  int descriptor_ = -1;
  uint64_t size_ = 0;
};

// A read-only mapping of a whole file.  Move only.  An empty file maps to no bytes.  The file must not be
// truncated while mapped (atomic writers replace it by rename, which leaves the mapping valid).
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

bool path_exists(const std::string& path);
void make_directories(const std::string& path);  // and its parents; made durable; no error when it exists
void sync_directory(const std::string& path);    // its entries are on disk on return
void rename_durably(const std::string& from, const std::string& to);  // both folders are synced
// Puts folder `from` in the place of folder `to`, in one step where the file system can exchange two names
// (else there is a moment without `to`), then removes what was there.  `to` need not exist.  Both are in the
// same parent folder.
void replace_directory(const std::string& from, const std::string& to);
void remove_all(const std::string& path);               // file or folder with all in it; no error when absent
std::string parent_directory(const std::string& path);  // "." for a bare name

// Appends lines for a reader that follows along (metrics.jsonl).  Each append is one write(2), so a crash
// leaves whole lines but perhaps the last.  Not durable until sync().
class AppendFile {
 public:
  explicit AppendFile(std::string path, bool truncate = false);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;
  void append(std::string_view text);
  void sync();

 private:
  std::string path_;
  int descriptor_ = -1;
};

}  // namespace furrow
