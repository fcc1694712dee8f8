// Reading shards of a pack, mapped or streamed; every block is compared with its checksum before its first
// use.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "furrow/base/descriptor.h"
#include "furrow/base/error.h"
#include "furrow/base/memory.h"
#include "furrow/storage/pack.h"
#include "furrow/storage/pack_shard.h"

namespace furrow::storage {
namespace {

Descriptor open_to_read(const std::string& path) {
  Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.open()) throw errno_error(errno, "read", path);
  return file;
}

// The bytes at `offset`.  Error{data_loss} when the file ends before.
void read_at(const Descriptor& file, const std::string& path, uint64_t offset, std::span<std::byte> out) {
  if (furrow::read_at(file.get(), offset, out, path) < out.size())
    throw Error(ErrorCode::kDataLoss, path + " ends early: it was cut short while in use");
}

struct OpenShard {
  Descriptor file;
  ShardHeader header;
  std::vector<uint64_t> table;
};

// Opens a shard and compares header, length and table.
OpenShard open_shard(const std::string& path) {
  Descriptor file = open_to_read(path);
  struct stat status{};
  if (::fstat(file.get(), &status) != 0) throw errno_error(errno, "read", path);
  const auto bytes = static_cast<uint64_t>(status.st_size);
  try {
    std::array<std::byte, kShardHeaderBytes> start{};
    const auto head = std::span(start).first(std::min<uint64_t>(bytes, start.size()));
    read_at(file, path, 0, head);
    const ShardHeader header = parse_shard_header(head);
    if (bytes != header.file_bytes()) {
      throw Error(
          ErrorCode::kDataLoss,
          fmt::format("{} bytes, not the {} that its header asks for: the file is damaged, pack the data "
                      "again",
                      bytes, header.file_bytes()));
    }
    std::vector<uint64_t> table(header.blocks());
    read_at(file, path, header.table_offset(), std::as_writable_bytes(std::span(table)));
    if (xxh3_64(std::as_bytes(std::span(table))) != header.table_checksum) {
      throw Error(ErrorCode::kDataLoss, "the table of checksums is damaged: pack the data again");
    }
    return {std::move(file), header, std::move(table)};
  } catch (const Error& error) {
    throw error.with_context(path);
  }
}

constexpr size_t kMostBlocksAtOnce = 16;  // that a reader holds to compare them

// One open shard.
struct Shard {
  std::string path;
  ShardHeader header;
  std::vector<uint64_t> table;
  std::optional<Descriptor> file;                   // streamed
  std::optional<MappedFile> mapping;                // mapped
  std::unique_ptr<std::atomic<uint8_t>[]> checked;  // one per block: it was equal to its checksum

  Shard(std::string name, const PackShard& expected, PackAccess access) : path(std::move(name)) {
    OpenShard opened = open_shard(path);
    header = opened.header;
    table = std::move(opened.table);
    if (header.table_checksum != expected.checksum ||
        header.records != static_cast<uint64_t>(expected.records)) {
      throw Error(ErrorCode::kDataLoss, fmt::format("{} is not the shard that {} describes: it belongs to "
                                                    "another pack, or was exchanged",
                                                    path, kPackFile));
    }
    if (access == PackAccess::kMapped) {
      mapping.emplace(path);
      if (mapping->bytes().size() != header.file_bytes()) {
        throw Error(ErrorCode::kDataLoss, path + " changed while it was opened");
      }
      ::madvise(const_cast<std::byte*>(mapping->bytes().data()), mapping->bytes().size(), MADV_RANDOM);
    } else {
      file.emplace(std::move(opened.file));
      ::posix_fadvise(file->get(), 0, 0, POSIX_FADV_RANDOM);
    }
    checked = std::make_unique<std::atomic<uint8_t>[]>(table.size());
  }

  void expect(size_t record_bytes, int64_t first_record) const {
    if (header.record_bytes == record_bytes && header.first_record == static_cast<uint64_t>(first_record))
      return;
    throw Error(
        ErrorCode::kDataLoss,
        fmt::format("{} has records of {} bytes from {}, not of {} from {}: it belongs to another pack", path,
                    header.record_bytes, header.first_record, record_bytes, first_record));
  }

  std::span<const std::byte> mapped(uint64_t offset, size_t length) const {
    return mapping->bytes().subspan(kShardHeaderBytes + offset, length);
  }

  // Of records: the block that has the byte at `offset`, and where blocks begin; after the last, the end.
  size_t block_of(uint64_t offset) const { return offset / header.block_bytes; }
  uint64_t begin_of(size_t block) const {
    return std::min<uint64_t>(block * header.block_bytes, header.payload_bytes());
  }
  size_t block_bytes(size_t block) const { return begin_of(block + 1) - begin_of(block); }

  std::string damage(size_t block) const {
    return fmt::format("{}: bytes {} to {} of its records differ from their checksum", path, begin_of(block),
                       begin_of(block + 1) - 1);
  }

  bool is_checked(size_t block) const { return checked[block].load(std::memory_order_relaxed) != 0; }

  void check(size_t block, std::span<const std::byte> bytes) const {
    if (xxh3_64(bytes) != table[block]) {
      throw Error(ErrorCode::kDataLoss,
                  damage(block) + ": `furrow data verify` lists all damage; pack the data again");
    }
    checked[block].store(1, std::memory_order_relaxed);
  }

  // Streamed: the bytes at `offset`, which lie in blocks [first, end).
  void read_and_check(size_t first, size_t end, uint64_t offset, std::span<std::byte> out) const {
    const uint64_t begin = begin_of(first);
    const size_t bytes = begin_of(end) - begin;
    const auto memory = std::make_unique_for_overwrite<std::byte[]>(bytes);
    const std::span<std::byte> whole(memory.get(), bytes);
    read_at(*file, path, kShardHeaderBytes + begin, whole);
    for (size_t block = first; block < end; ++block)
      check(block, whole.subspan(begin_of(block) - begin, block_bytes(block)));
    std::memcpy(out.data(), whole.data() + (offset - begin), out.size());
  }
};

// A streamed shard keeps its file open.
void allow_open_files(size_t count) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  const rlim_t wanted = count + 512;  // what the rest of the process may need
  if (limit.rlim_cur >= wanted) return;
  limit.rlim_cur = std::min<rlim_t>(wanted, limit.rlim_max);
  ::setrlimit(RLIMIT_NOFILE, &limit);  // a refusal shows itself at open()
}

}  // namespace

struct PackReader::Shard : storage::Shard {
  using storage::Shard::Shard;
};

PackReader::PackReader(const std::string& folder, const PackInfo& info, const PackSplit& split,
                       PackAccess access)
    : record_bytes_(info.record_bytes(split)) {
  if (access == PackAccess::kStreamed) allow_open_files(split.shards.size());
  for (const PackShard& shard : split.shards) {
    auto opened = std::make_unique<Shard>(folder + "/" + shard.file, shard, access);
    opened->expect(record_bytes_, records_);
    first_.push_back(records_);
    records_ += shard.records;
    shards_.push_back(std::move(opened));
  }
}

PackReader::~PackReader() = default;
PackReader::PackReader(PackReader&&) noexcept = default;

const PackReader::Shard& PackReader::shard_of(int64_t record) const {
  const auto after = std::upper_bound(first_.begin(), first_.end(), record);
  return *shards_[static_cast<size_t>(after - first_.begin()) - 1];
}

// Blocks that were compared before are read in part, others whole; of either, those side by side at once.
void PackReader::read_within(const Shard& shard, uint64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const size_t first = shard.block_of(offset);
    const bool checked = shard.is_checked(first);
    size_t end = first + 1;
    while (shard.begin_of(end) < offset + out.size() && shard.is_checked(end) == checked &&
           (checked || end - first < kMostBlocksAtOnce)) {
      ++end;
    }
    const auto part = out.first(std::min<uint64_t>(out.size(), shard.begin_of(end) - offset));
    if (checked) {
      read_at(*shard.file, shard.path, kShardHeaderBytes + offset, part);
    } else {
      shard.read_and_check(first, end, offset, part);
    }
    offset += part.size();
    out = out.subspan(part.size());
  }
}

std::span<const std::byte> PackReader::read(int64_t first, int64_t count,
                                            std::span<std::byte> scratch) const {
  FURROW_CHECK(first >= 0 && count >= 0 && count <= records_ && first <= records_ - count,
               "records out of range");
  const size_t bytes = static_cast<size_t>(count) * record_bytes_;
  auto out = scratch;
  for (int64_t record = first; record < first + count;) {
    const Shard& shard = shard_of(record);
    const auto inside = record - static_cast<int64_t>(shard.header.first_record);
    const int64_t part =
        std::min(first + count - record, static_cast<int64_t>(shard.header.records) - inside);
    const uint64_t offset = static_cast<uint64_t>(inside) * record_bytes_;
    const size_t length = static_cast<size_t>(part) * record_bytes_;
    if (shard.mapping) {
      for (size_t block = shard.block_of(offset); shard.begin_of(block) < offset + length; ++block) {
        if (!shard.is_checked(block))
          shard.check(block, shard.mapped(shard.begin_of(block), shard.block_bytes(block)));
      }
      if (part == count) return shard.mapped(offset, length);
    }
    FURROW_CHECK(scratch.size() >= bytes, "scratch memory is too small");
    if (shard.mapping) {
      std::memcpy(out.data(), shard.mapped(offset, length).data(), length);
    } else {
      read_within(shard, offset, out.first(length));
    }
    out = out.subspan(length);
    record += part;
  }
  return scratch.first(bytes);
}

void PackReader::prefetch(int64_t first, int64_t count) const {
  if (!shards_.front()->mapping) return;  // one access for all
  const Shard& shard = shard_of(first);
  const uint64_t offset = (static_cast<uint64_t>(first) - shard.header.first_record) * record_bytes_;
  const uint64_t end =
      std::min(shard.header.payload_bytes(), offset + static_cast<uint64_t>(count) * record_bytes_);
  const std::byte* const bytes = shard.mapping->bytes().data() + kShardHeaderBytes;
  for (uint64_t at = offset; at < end; at += 64) __builtin_prefetch(bytes + at);
  asm volatile("");  // or GCC takes a function of prefetches alone for pure and drops its calls
}

std::vector<std::string> verify_shard(const std::string& folder, size_t record_bytes,
                                      const PackShard& expected, int64_t first_record) {
  const storage::Shard shard(folder + "/" + expected.file, expected, PackAccess::kStreamed);
  shard.expect(record_bytes, first_record);
  std::vector<std::string> messages;
  std::vector<std::byte> memory(shard.header.block_bytes);
  for (size_t block = 0; block < shard.table.size(); ++block) {
    const auto bytes = std::span(memory).first(shard.block_bytes(block));
    read_at(*shard.file, shard.path, kShardHeaderBytes + shard.begin_of(block), bytes);
    if (xxh3_64(bytes) != shard.table[block]) messages.push_back(shard.damage(block));
  }
  return messages;
}

PackShard inspect_shard(const std::string& path, size_t record_bytes, int64_t first_record) {
  const OpenShard shard = open_shard(path);
  if (shard.header.record_bytes != record_bytes ||
      shard.header.first_record != static_cast<uint64_t>(first_record)) {
    throw Error(ErrorCode::kDataLoss, path + " is a shard of another pack");
  }
  const size_t slash = path.rfind('/');
  return {slash == std::string::npos ? path : path.substr(slash + 1),
          static_cast<int64_t>(shard.header.records), shard.header.table_checksum};
}

}  // namespace furrow::storage
