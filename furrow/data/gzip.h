// Decompression of gzip (RFC 1952), checksums verified: whole buffers through libdeflate, streams through
// zlib.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "furrow/data/files.h"

namespace furrow::data {

// Starts with the magic of a gzip member?
bool is_gzip(std::span<const std::byte> file);

// All members of `file`, one after the other.  Error{data_loss}: truncated, checksum or length differ, bytes
// behind the last member.  Never allocates more than the input can expand to (1,032 times, the limit of
// deflate).
Bytes gunzip(std::span<const std::byte> file);

// Up to `length` bytes that `start`, the first part of a file, expands to; checksums are not looked at.
// Error{data_loss} when it is not gzip data.
std::vector<uint8_t> gunzip_prefix(std::span<const std::byte> start, size_t length);

// What gunzip() gives, front to back, in memory that does not depend on the file.  One thread.
class GunzipStream {
 public:
  // Fills its argument with what comes next of the file, fewer bytes only at its end.
  using ReadFile = std::function<size_t(std::span<std::byte>)>;

  explicit GunzipStream(ReadFile read_file);
  ~GunzipStream();
  GunzipStream(const GunzipStream&) = delete;
  GunzipStream& operator=(const GunzipStream&) = delete;
  size_t read(std::span<std::byte> out);  // fewer bytes only at the end.  Error{data_loss} as gunzip()

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace furrow::data
