// Reading whole files of a data set.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/base/descriptor.h"
#include "furrow/base/memory.h"

namespace furrow::data {

// A buffer and the part of it that holds the contents.
struct Bytes {
  CountedBuffer buffer;
  std::span<const std::byte> contents;

  std::span<const uint8_t> as_uint8() const {
    return {reinterpret_cast<const uint8_t*>(contents.data()), contents.size()};
  }
  std::string_view as_text() const {
    return {reinterpret_cast<const char*>(contents.data()), contents.size()};
  }
};

// `path` if it is a file, else `path` with ".gz" appended, or without it.  Empty when there is neither.
std::filesystem::path find_file(const std::filesystem::path& path);

// As find_file; Error{not_found} names the file, the key to set and the page to read.
std::filesystem::path require_file(const std::filesystem::path& path);

// The file as it is.  Error{not_found, permission_denied, invalid_argument (a folder), data_loss (a read
// error)}.
Bytes read_file(const std::filesystem::path& path);

// The file, decompressed when its first bytes are those of gzip (gzip.h).  Error{data_loss} names a damaged
// file.
Bytes read_contents(const std::filesystem::path& path);

// The same front to back, zstd and bzip2 decompressed too (decompress.h), in memory that does not depend on
// the file.  One thread.
class ContentStream {
 public:
  explicit ContentStream(const std::filesystem::path& path);
  ~ContentStream();
  uint64_t taken() const;                 // bytes of the file on disk that were read so far
  size_t read(std::span<std::byte> out);  // how many bytes came: fewer only at the end
  // Goes to byte `to` of the contents; of what is compressed all before it is decompressed, `between` pieces
  // of which is called.  REQUIRES: nothing was read.  Error{data_loss}: they are shorter.
  void skip(uint64_t to, const std::function<void()>& between);

 private:
  class File;
  std::unique_ptr<File> file_;
  std::function<size_t(std::span<std::byte>)> expand_;  // of what is compressed
};

// A file that is read at any place: a plain one where it lies, a compressed one (as ContentStream reads it)
// from a file without a name in the system's folder for temporary files.  Thread safe.
class RandomFile {
 public:
  // `between` is called now and then while what is compressed is read.
  explicit RandomFile(const std::filesystem::path& path, const std::function<void()>& between = {});
  ~RandomFile();
  uint64_t size() const { return size_; }
  // Bytes from `offset` on; fewer only at the end.
  size_t read_at(uint64_t offset, std::span<std::byte> out) const;

 private:
  class Plain;
  std::unique_ptr<Plain> plain_;
  uint64_t size_ = 0;
};

// Path, size and time of change of a file, in one line: another one, or changed since, where it differs.
std::string stamp_of(const std::filesystem::path& path);

// A new file to be read and written, in the system's folder for temporary files, which has no name any more:
// it goes with its last descriptor.  Errors as base/file.h has them.
Descriptor open_nameless_file();

// Up to `length` bytes from the start of read_contents(), without reading the rest: damage behind them goes
// unseen.
std::vector<uint8_t> read_prefix(const std::filesystem::path& path, size_t length);

}  // namespace furrow::data
