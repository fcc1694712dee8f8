// A set of the rows of a table, at about one bit a row.
#pragma once

#include <cstdint>
#include <vector>

#include "furrow/data/split.h"

namespace furrow::data {

// Rows below a bound.  Thread safe once sealed.
class RowSet {
 public:
  RowSet() = default;
  static RowSet all(int64_t bound);  // every row, in no memory; sealed
  explicit RowSet(int64_t bound);    // none
  void add(int64_t row);             // REQUIRES: not sealed, row < bound
  void seal();                       // before anything below
  int64_t size() const { return size_; }
  bool contains(int64_t row) const;
  // Those of `rows` rows from `first` on, counted from there.
  std::vector<uint32_t> of_block(int64_t first, size_t rows) const;
  int64_t before(int64_t row) const;  // how many are below `row`; REQUIRES: row <= bound
  int64_t row(int64_t index) const;   // the one with so many below it; REQUIRES: index < size()

 private:
  static constexpr int64_t kStride = 8;  // words with one count
  bool all_ = false;
  int64_t bound_ = 0, size_ = 0;
  std::vector<uint64_t> words_;
  std::vector<int64_t> counts_;  // in the words before each stride
};

// Random rows for validation and for the test, the rest to train on: a pure function of the arguments.
// REQUIRES: validation + test < rows.
struct CarvedRows {
  RowSet train, validation, test;
};
CarvedRows carve_rows(int64_t rows, int64_t validation, int64_t test, uint64_t seed);

}  // namespace furrow::data
