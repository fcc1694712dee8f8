// What the blocks of a table say about a column together, whatever their order.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/data/table_store.h"

namespace furrow::data {

// A row by its block.
struct RowOfBlock {
  uint64_t file = 0, begin = 0;  // of the block's place
  uint64_t row = 0;              // of the block
  friend auto operator<=>(const RowOfBlock&, const RowOfBlock&) = default;
};

// About how many of the numbers of a column are different, while all of them are whole ("HyperLogLog: the
// analysis of a near-optimal cardinality estimation algorithm", Flajolet et al., 2007; 1.6 % off).  The order
// of the numbers changes nothing.
class WholeNumbers {
 public:
  void add(const BlockColumn& column, size_t rows);  // of numbers, not of codes
  void add(const WholeNumbers& other);
  bool all_whole() const { return whole_; }
  double different() const;

 private:
  static constexpr int kBits = 12;  // of registers
  void add(int64_t number);

  bool whole_ = true;
  std::vector<uint8_t> most_zeros_;  // none yet, or a register each
};

struct ColumnSummary {
  // A column with so many different texts is a mistake, unless it is listed: they are not counted further.
  static constexpr size_t kMostCounted = 100'000;

  uint64_t numbers = 0, others = 0;  // rows
  std::optional<RowOfBlock> first_other, first_missing;
  std::string other_text;                    // of first_other
  std::set<std::string, std::less<>> texts;  // "": some are missing
  bool typed = false;                        // a file says itself that it holds numbers
  bool more_texts = false;                   // than those
  bool dated = false;                        // the numbers are days since 1970-01-01
  WholeNumbers whole = {};                   // of the blocks that have no codes

  // `most`: texts to count.
  void add(const BlockPlace& place, const BlockColumn& column, size_t most);
  void add(const ColumnSummary& other, size_t most);

 private:
  void add_text(std::string_view text, size_t most);
  void take_other(const RowOfBlock& row, std::string_view text);
  void take_missing(const RowOfBlock& row);
};

}  // namespace furrow::data
