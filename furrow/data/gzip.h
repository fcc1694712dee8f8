// Whole-buffer gzip decompression (RFC 1952) through libdeflate, checksums verified.
#pragma once

#include <cstddef>
#include <cstdint>
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

}  // namespace furrow::data
