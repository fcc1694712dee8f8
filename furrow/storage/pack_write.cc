// Shards of a pack: their header, and writing them.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>

#include "furrow/base/error.h"
#include "furrow/base/failpoint.h"
#include "furrow/storage/pack.h"
#include "furrow/storage/pack_shard.h"

namespace furrow::storage {
namespace {

constexpr char kMagic[8] = {'F', 'U', 'R', 'R', 'O', 'W', 'P', 'K'};
constexpr uint32_t kVersion = 2;  // 1: blocks of kPackBlockBytes, nothing else differs
constexpr uint64_t kMaxShardBytes = uint64_t{1} << 48;
constexpr size_t kChecked = kShardHeaderBytes - 8;  // the last word is the checksum of what is before it

static_assert(std::endian::native == std::endian::little,
              "the format is little-endian, as every machine so far");

[[noreturn]] void damaged(const std::string& message) {
  throw Error(ErrorCode::kDataLoss, message + ": the file is damaged or no shard, pack the data again");
}

template <class T>
T load(std::span<const std::byte> bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

template <class T>
void store(std::span<std::byte> bytes, size_t offset, T value) {
  std::memcpy(bytes.data() + offset, &value, sizeof(T));
}

bool is_block_size(uint64_t bytes, uint32_t version) {
  if (version == 1) return bytes == kPackBlockBytes;
  return std::has_single_bit(bytes) && bytes >= kLeastPackBlockBytes && bytes <= kPackBlockBytes;
}

}  // namespace

size_t pack_block_bytes(size_t record_bytes, uint64_t total_bytes) {
  constexpr uint64_t kMostBlocks = uint64_t{1} << 21;  // 16 MiB of checksums
  uint64_t block =
      std::bit_ceil(std::clamp<uint64_t>(2 * record_bytes, kLeastPackBlockBytes, kPackBlockBytes));
  while (block < kPackBlockBytes && total_bytes / block > kMostBlocks) block *= 2;
  return block;
}

uint64_t ShardHeader::blocks() const { return (payload_bytes() + block_bytes - 1) / block_bytes; }
uint64_t ShardHeader::table_offset() const { return (kShardHeaderBytes + payload_bytes() + 7) / 8 * 8; }

std::array<std::byte, kShardHeaderBytes> to_bytes(const ShardHeader& header) {
  std::array<std::byte, kShardHeaderBytes> bytes{};
  std::memcpy(bytes.data(), kMagic, sizeof(kMagic));
  store(bytes, 8, kVersion);
  store(bytes, 12, static_cast<uint32_t>(header.block_bytes));
  store(bytes, 16, header.record_bytes);
  store(bytes, 24, header.records);
  store(bytes, 32, header.first_record);
  store(bytes, 40, header.table_checksum);
  store(bytes, kChecked, xxh3_64(std::span<const std::byte>(bytes).first(kChecked)));
  return bytes;
}

ShardHeader parse_shard_header(std::span<const std::byte> file_start) {
  if (file_start.size() < kShardHeaderBytes)
    damaged(fmt::format("{} bytes are no header", file_start.size()));
  const auto bytes = file_start.first(kShardHeaderBytes);
  if (std::memcmp(bytes.data(), kMagic, sizeof(kMagic)) != 0) damaged("wrong magic");
  const auto version = load<uint32_t>(bytes, 8);
  if (version > kVersion) {
    throw Error(ErrorCode::kUnimplemented,
                fmt::format("the shard is of version {}, this furrow reads up to {}: use a newer one",
                            version, kVersion));
  }
  if (load<uint64_t>(bytes, kChecked) != xxh3_64(bytes.first(kChecked)))
    damaged("the header's checksum differs");
  const ShardHeader header{.block_bytes = load<uint32_t>(bytes, 12),
                           .record_bytes = load<uint64_t>(bytes, 16),
                           .records = load<uint64_t>(bytes, 24),
                           .first_record = load<uint64_t>(bytes, 32),
                           .table_checksum = load<uint64_t>(bytes, 40)};
  uint64_t payload = 0;
  const bool possible = is_block_size(header.block_bytes, version) && header.record_bytes > 0 &&
                        header.records > 0 && header.first_record < kMaxShardBytes &&
                        !__builtin_mul_overflow(header.records, header.record_bytes, &payload) &&
                        payload < kMaxShardBytes;
  if (!possible) damaged("impossible numbers in the header");
  return header;
}

ShardWriter::ShardWriter(const std::string& path, size_t record_bytes, int64_t first_record,
                         size_t block_bytes)
    : file_(path),
      record_bytes_(record_bytes),
      block_bytes_(block_bytes),
      first_record_(first_record),
      block_(std::make_unique<Xxh3Stream>()) {
  FURROW_CHECK(record_bytes > 0 && first_record >= 0, "records without bytes");
  FURROW_CHECK(is_block_size(block_bytes, kVersion), "blocks of a size that no reader takes");
  FURROW_FAILPOINT("pack.before_shard");
  file_.write(std::array<std::byte, kShardHeaderBytes>{});
}

ShardWriter::~ShardWriter() = default;

void ShardWriter::close_block() {
  table_.push_back(block_->digest_64());
  block_ = std::make_unique<Xxh3Stream>();
  in_block_ = 0;
}

void ShardWriter::append(std::span<const std::byte> records) {
  FURROW_CHECK(records.size() % record_bytes_ == 0, "a part of a record");
  file_.write(records);
  payload_ += records.size();
  while (!records.empty()) {
    const auto part = records.first(std::min(records.size(), block_bytes_ - in_block_));
    block_->update(part);
    in_block_ += part.size();
    if (in_block_ == block_bytes_) close_block();
    records = records.subspan(part.size());
  }
}

PackShard ShardWriter::commit() {
  FURROW_CHECK(payload_ > 0, "a shard without records");
  if (in_block_ > 0) close_block();
  const auto table = std::as_bytes(std::span(table_));
  const ShardHeader header{.block_bytes = block_bytes_,
                           .record_bytes = record_bytes_,
                           .records = payload_ / record_bytes_,
                           .first_record = static_cast<uint64_t>(first_record_),
                           .table_checksum = xxh3_64(table)};
  const std::array<std::byte, 8> zeros{};
  file_.write(std::span(zeros).first(header.table_offset() - kShardHeaderBytes - payload_));
  file_.write(table);
  file_.write_at(0, to_bytes(header));
  file_.commit();
  FURROW_FAILPOINT("pack.after_shard");
  return {std::filesystem::path(file_.path()).filename().string(), static_cast<int64_t>(header.records),
          header.table_checksum};
}

}  // namespace furrow::storage
