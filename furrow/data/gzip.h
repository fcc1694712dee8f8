// gzip decompression (RFC 1952), checksums verified: of whole buffers through libdeflate, of streams through
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

// The contents front to back in little memory, at a third of the speed.  One thread.
class GzipStream {
 public:
  using Read = std::function<size_t(std::span<std::byte> out)>;  // of the file; fewer only at its end
  explicit GzipStream(Read read);
  ~GzipStream();
  GzipStream(const GzipStream&) = delete;
  GzipStream& operator=(const GzipStream&) = delete;
  // How many bytes came: fewer only at the end.  Error{data_loss} as gunzip, once it comes to the damage.
  size_t read(std::span<std::byte> out);
  uint64_t consumed() const { return consumed_; }  // bytes of the file

 private:
  struct Inflate;
  bool refill();  // false: the file ends

  Read read_;
  std::unique_ptr<Inflate> inflate_;
  std::vector<std::byte> input_;
  uint64_t consumed_ = 0;
  bool done_ = false;
};

// Up to `length` bytes that `start`, the first part of a file, expands to; checksums are not looked at.
// Error{data_loss} when it is not gzip data.
std::vector<uint8_t> gunzip_prefix(std::span<const std::byte> start, size_t length);

}  // namespace furrow::data
