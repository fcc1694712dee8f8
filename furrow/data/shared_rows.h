// Encoded rows of a table, in memory of this process or in such that other processes of this host can map.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "furrow/base/memory.h"
#include "furrow/data/shared_memory.h"

namespace furrow::data {

// The splits of a table, one behind the other, each `rows` times `width` cells of 4 bytes.  Thread safe.
class RowMemory {
 public:
  // Of this process alone; or `shared`.  Error{resource_exhausted}.
  static std::shared_ptr<RowMemory> make(const std::array<int64_t, 3>& rows, size_t width, bool shared);
  // What place() of another process says, to be read; null where it is not there, or are rows of another
  // width.
  static std::shared_ptr<RowMemory> map(const std::string& place, size_t width);

  std::string place() const { return shared_ == nullptr ? "" : shared_->place(); }
  int64_t rows(size_t split) const { return rows_[split]; }
  std::span<std::byte> split(size_t split) const;  // REQUIRES of one that is mapped: nothing is written

 private:
  RowMemory(const std::array<int64_t, 3>& rows, size_t width) : rows_(rows), width_(width) {}
  size_t split_bytes(size_t split) const;
  size_t all_bytes() const { return split_bytes(0) + split_bytes(1) + split_bytes(2); }

  std::array<int64_t, 3> rows_;
  size_t width_;
  CountedBuffer own_;
  std::shared_ptr<const SharedMemory> shared_;  // else
};

}  // namespace furrow::data
