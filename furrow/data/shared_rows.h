// Encoded rows of a table in memory that other processes of this host can map, so that a table is parsed once
// for all ranks of a host and lies there once.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

namespace furrow::data {

// The splits of a table, one behind the other, each `rows` times `width` cells of 4 bytes.  Thread safe.
class RowMemory {
 public:
  // Of this process alone; or, `shared`, without a name in any folder, gone with the last process that has
  // it.  Error{resource_exhausted}.
  static std::shared_ptr<RowMemory> make(const std::array<int64_t, 3>& rows, size_t width, bool shared);
  // What place() of another process says, to be read; null where it is not there: another host, or its
  // maker has ended.
  static std::shared_ptr<RowMemory> map(const std::string& place, size_t width);

  virtual ~RowMemory() = default;
  virtual std::string place() const = 0;  // empty: of this process alone
  int64_t rows(size_t split) const { return rows_[split]; }
  std::span<std::byte> split(size_t split) const;  // REQUIRES of one that is mapped: nothing is written

 protected:
  RowMemory(const std::array<int64_t, 3>& rows, size_t width) : rows_(rows), width_(width) {}
  size_t cell_bytes() const;  // of all splits
  std::byte* cells_ = nullptr;

 private:
  std::array<int64_t, 3> rows_;
  size_t width_;
};

}  // namespace furrow::data
