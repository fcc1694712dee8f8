// The header of a shard, shared by its writer and its readers.  docs/formats/pack.md.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "furrow/storage/pack.h"

namespace furrow::storage {

inline constexpr size_t kShardHeaderBytes = 64;

struct ShardHeader {
  uint64_t block_bytes = kPackBlockBytes;
  uint64_t record_bytes = 0;
  uint64_t records = 0;
  uint64_t first_record = 0;
  uint64_t table_checksum = 0;

  // REQUIRES: as parse_shard_header checks.
  uint64_t payload_bytes() const { return records * record_bytes; }
  uint64_t blocks() const;
  uint64_t table_offset() const;  // the records, padded with zeros to a multiple of 8
  uint64_t file_bytes() const { return table_offset() + 8 * blocks(); }
};

std::array<std::byte, kShardHeaderBytes> to_bytes(const ShardHeader& header);
// Error{data_loss}: no such header, or impossible numbers; {unimplemented}: of a later version.
ShardHeader parse_shard_header(std::span<const std::byte> file_start);

}  // namespace furrow::storage
