// The blocks of a table: in memory as far as a bound, the rest in a file without a name; or all of them in a
// file that a later process goes on with.
//
// That file is blocks in the order in which they were made, each behind a header with its place in the table
// and checksums; docs/formats/pack.md describes it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "furrow/base/descriptor.h"
#include "furrow/base/memory.h"
#include "furrow/data/table_block.h"

namespace furrow::data {

inline constexpr std::string_view kRowsSuffix = ".rows";  // of such a file's name

// Which part of the table a block is.  Of CSV: bytes [begin, end) of the contents; of Parquet: rows of the
// file.
struct BlockPlace {
  uint64_t file = 0;  // of the table's files
  uint64_t begin = 0, end = 0;
  int64_t rows = 0;
  friend auto operator<=>(const BlockPlace&, const BlockPlace&) = default;
};

// Bytes of a block that stay as long as this does.
class HeldBlock {
 public:
  explicit HeldBlock(CountedBuffer bytes)
      : bytes_(std::move(bytes)), block_({bytes_.data(), bytes_.size()}) {}
  const Block& block() const { return block_; }

 private:
  CountedBuffer bytes_;
  Block block_;
};

// Thread safe until sealed, and then again.
class TableStore {
 public:
  // The first `memory_bytes` of blocks in memory, the others in a file of the system's folder for temporary
  // files, which ends with this; where that folder has no room, in memory too, and it is said.
  explicit TableStore(uint64_t memory_bytes);
  // In `path`, with the blocks that an interrupted process has left there, if its fingerprint is the same.
  TableStore(std::filesystem::path path, const std::string& fingerprint);
  ~TableStore();
  TableStore(const TableStore&) = delete;
  TableStore& operator=(const TableStore&) = delete;

  // The block that begins there, if it is there already.
  const BlockPlace* find(uint64_t file, uint64_t begin) const;
  void add(const BlockPlace& place, std::span<const std::byte> block);  // Error{resource_exhausted}
  std::vector<BlockPlace> places() const;                               // of the blocks that are there
  std::shared_ptr<const HeldBlock> load(const BlockPlace& place) const;
  // Rows of the file in the blocks before that place.
  int64_t rows_before(uint64_t file, uint64_t begin) const;

  // No more blocks; they are numbered in the order of the table.
  void seal();
  size_t blocks() const { return order_.size(); }
  int64_t rows() const { return rows_; }
  const BlockPlace& place(size_t block) const { return *order_[block].place; }
  int64_t first_row(size_t block) const { return order_[block].first_row; }            // of the table
  int64_t first_row_of_file(size_t block) const { return order_[block].row_in_file; }  // of its file
  size_t block_of(int64_t row) const;
  uint64_t bytes() const { return bytes_; }

  // Error{data_loss}: the file has changed meanwhile.
  std::shared_ptr<const HeldBlock> load(size_t block) const;
  void drop(size_t block);  // gives its room back, unless a later process may read it; nobody loads it again

 private:
  struct Kept {
    std::shared_ptr<const HeldBlock> memory;
    uint64_t offset = 0, bytes = 0, checksum = 0;  // in the file; of one without a name it is not compared
  };
  struct Ordered {
    const BlockPlace* place = nullptr;
    Kept* kept = nullptr;
    int64_t first_row = 0, row_in_file = 0;
  };

  bool lasts() const { return !path_.empty(); }
  void open_file(const std::string& fingerprint);
  void scan(uint64_t size);
  bool put_aside(std::span<const std::byte> block);
  std::shared_ptr<const HeldBlock> load(const Kept& kept) const;

  std::filesystem::path path_;  // empty: a file, if there is one, has no name
  uint64_t memory_left_ = 0;
  Descriptor file_;
  mutable std::mutex mutex_;
  bool no_room_ = false;  // for a file without a name
  uint64_t end_ = 0;      // of the file
  std::map<BlockPlace, Kept> kept_;
  std::vector<Ordered> order_;
  int64_t rows_ = 0;
  uint64_t bytes_ = 0;
};

}  // namespace furrow::data
