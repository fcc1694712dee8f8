// Compressed files front to back, in memory that does not depend on the file: gzip as gzip.h, zstd and bzip2
// by what Arrow brings (table_file.h).
#pragma once

#include <cstddef>
#include <functional>
#include <span>

namespace furrow::data {

// Fills its argument with what comes next, fewer bytes only at the end.
using ReadNext = std::function<size_t(std::span<std::byte>)>;

enum class Compression { kNone, kGzip, kZstd, kBzip2 };
inline constexpr size_t kMagicBytes = 10;
// By the first bytes of a file, up to kMagicBytes.
Compression compression_of(std::span<const std::byte> start);

// What `file` expands to, all members or frames one behind the other.  Reading: Error{data_loss} of what is
// damaged or cut short; {failed_precondition}: zstd or bzip2 without libfurrow_tables.so.  One thread.
ReadNext decompressed(Compression compression, ReadNext file);

}  // namespace furrow::data
