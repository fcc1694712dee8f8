// A pack: records of a fixed size, in checksummed shards, by split.  Records are bytes here; what they mean,
// their owner knows (data/records.h).
//
//   DIR/pack.json           what the records are, the shards and their checksums; its presence makes the pack
//       train-00000.shard   header, records one after the other, an XXH3-64 of every block of them
//       validation-00000.shard ...
//
// docs/formats/pack.md describes the bytes.  Readers believe nothing: every block is compared with its
// checksum before its first use.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/base/array.h"
#include "furrow/base/file.h"
#include "furrow/base/hash.h"

namespace furrow::storage {

inline constexpr std::string_view kPackFile = "pack.json";
// What has one checksum: a power of two of bytes between these.
inline constexpr size_t kLeastPackBlockBytes = 4096;
inline constexpr size_t kPackBlockBytes = 65536;
// The first use of a record reads its blocks whole: they are about as large as two records, but so large that
// the checksums of `total_bytes` of records take at most 16 MiB of every process that reads them.
size_t pack_block_bytes(size_t record_bytes, uint64_t total_bytes);

// One array of a record; a record is its fields one after the other, without padding, little-endian.
struct PackField {
  std::string name;
  DType dtype = DType::kU8;
  Shape shape;
  friend bool operator==(const PackField&, const PackField&) = default;
};

struct PackShard {
  std::string file;       // a plain name beside pack.json
  int64_t records = 0;    // above 0
  uint64_t checksum = 0;  // XXH3-64 of the shard's table of block checksums
  friend bool operator==(const PackShard&, const PackShard&) = default;
};

struct PackSplit {
  std::string name;                    // "train", "validation", "test"
  std::vector<PackShard> shards = {};  // in the order of their records
  std::vector<PackField> fields = {};  // of its records, where they are not those of the pack
  int64_t records() const;
  friend bool operator==(const PackSplit&, const PackSplit&) = default;
};

// A set of a mixture; its splits are those of the pack whose names end in "." and its number.
struct PackPart {
  std::string name;
  double weight = 0;   // above 0, finite
  std::string layout;  // what its records are
  friend bool operator==(const PackPart&, const PackPart&) = default;
};

struct PackInfo {
  std::string kind;                    // of the data set that it was made from: "idx"
  std::string layout;                  // what records are: "images", "tokens", "samples", "mixture"
  std::vector<PackField> fields = {};  // of a record; of a mixture: of its first set
  std::vector<PackSplit> splits = {};
  std::vector<PackPart> parts = {};                       // of a mixture
  std::map<std::string, std::string> preprocessing = {};  // fitted values
  std::map<std::string, std::string> lineage = {};        // source, version, ...
  size_t record_bytes() const;                            // above 0
  size_t record_bytes(const PackSplit& split) const;      // of that split
  const PackSplit* find(std::string_view split) const;    // null when absent
  friend bool operator==(const PackInfo&, const PackInfo&) = default;
};

std::string to_json(const PackInfo& info);  // equal infos give equal text
// Error{data_loss}: not such a file, damaged (it carries a digest of itself); {unimplemented}: of a later
// version.
PackInfo parse_pack(std::string_view json);
PackInfo read_pack(const std::string& folder);                     // Error{not_found} names the folder
void write_pack(const std::string& folder, const PackInfo& info);  // atomic, durable

// Writes one shard front to back.  One thread.  Without commit() nothing is left.
class ShardWriter {
 public:
  // REQUIRES: record_bytes > 0, first_record (within its split) >= 0, blocks as above.
  ShardWriter(const std::string& path, size_t record_bytes, int64_t first_record,
              size_t block_bytes = kPackBlockBytes);
  ~ShardWriter();
  void append(std::span<const std::byte> records);  // REQUIRES: whole records
  PackShard commit();  // durable and under its name; REQUIRES: at least one record, called once

 private:
  void close_block();

  AtomicFile file_;
  size_t record_bytes_, block_bytes_;
  int64_t first_record_;
  uint64_t payload_ = 0;
  size_t in_block_ = 0;
  std::unique_ptr<Xxh3Stream> block_;
  std::vector<uint64_t> table_;
};

enum class PackAccess {
  kMapped,    // the shards are mapped: what is read stays in the page cache and counts as resident
  kStreamed,  // pread into the caller's memory: resident memory stays as it is
};

// The records of one split.  Thread safe.
class PackReader {
 public:
  // Opens every shard and compares headers, sizes and tables.  Error{data_loss, not_found} name the file.
  PackReader(const std::string& folder, const PackInfo& info, const PackSplit& split, PackAccess access);
  ~PackReader();
  PackReader(PackReader&&) noexcept;

  int64_t size() const { return records_; }  // records
  size_t record_bytes() const { return record_bytes_; }

  // Records [first, first + count): in place where they are mapped and lie in one shard, else in the front of
  // `scratch`, which holds as many.  Error{data_loss} names the shard and the block that is damaged.
  std::span<const std::byte> read(int64_t first, int64_t count, std::span<std::byte> scratch) const;
  // A hint that read(first, count) comes soon; for mapped records.
  void prefetch(int64_t first, int64_t count) const;

 private:
  struct Shard;
  const Shard& shard_of(int64_t record) const;
  void read_within(const Shard& shard, uint64_t offset, std::span<std::byte> out) const;

  std::vector<std::unique_ptr<Shard>> shards_;
  std::vector<int64_t> first_;  // record of each shard
  int64_t records_ = 0;
  size_t record_bytes_ = 0;
};

// Compares every block of one shard, whose first record is `first_record` of its split, with its checksum;
// one message per damaged block.  Error{data_loss, not_found} when it cannot be opened as that shard.
std::vector<std::string> verify_shard(const std::string& folder, size_t record_bytes, const PackShard& shard,
                                      int64_t first_record);

// The shard at `path` as its header and table describe it: what a resumed writer keeps.  Error{data_loss}
// when it is not a whole shard of `record_bytes` that starts at `first_record`.
PackShard inspect_shard(const std::string& path, size_t record_bytes, int64_t first_record);

}  // namespace furrow::storage
