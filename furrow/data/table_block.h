// A block: some rows of a table as they were read, cleaned and compact, before anything is fitted.  Blocks
// are made side by side and know nothing of each other; what is fitted follows from all of them.
//
// A column of a block has either the numbers of its rows, or the numbers of its different texts.  Texts are
// kept wherever they may turn out to be categories, so that a table is parsed once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/data/table_file.h"

namespace furrow::data {

// How columns are to be read: [data] of the configuration.
struct TableRules {
  std::string target = {};                    // a column
  bool number_target = false;                 // it is a number, else a class
  std::vector<std::string> categorical = {};  // columns of categories, whatever their values look like
  std::vector<std::string> numeric = {};      // columns of numbers, whatever their values look like
  std::vector<std::string> dates = {};        // columns of dates and times (text_shape.h)
  std::vector<std::string> missing = {""};    // values that stand for none
  std::string trim = " \t";                   // characters cut off both ends of text
  char decimal = '.';                         // of numbers that are text: '.' or ','
  bool ignore_unseen = false;                 // a category that training did not have is no error
};

// What a column is, as far as that is known before it is read.
enum class ColumnUse : uint8_t {
  kIgnored,
  kAuto,      // numbers, if nearly all of its values are
  kNumber,    // what is no number is kept as an example alone
  kDate,      // the same of dates, as days_of() has them
  kCategory,  // of its texts, however many
};

// A column that nobody lists has at most so many categories.
inline constexpr size_t kMostCategories = 1000;

// One of the different values of a column.
struct BlockValue {
  enum Kind : uint32_t { kMissing, kNumber, kOther };
  uint32_t kind = kOther;
  uint32_t first_row = 0;  // of the block
  uint32_t count = 0;      // rows that have it
  uint32_t text_end = 0;   // in `texts`
};

struct BlockColumn {
  enum Form : uint32_t { kF64, kF32, kCode8, kCode16, kCode32 };
  static constexpr uint32_t kNone = std::numeric_limits<uint32_t>::max();

  uint32_t form = kF64;
  bool typed = false;                    // the file itself says that it holds numbers
  bool dated = false;                    // the numbers are days since 1970-01-01
  uint32_t first_missing = kNone;        // row
  uint64_t numbers = 0;                  // rows that have a number
  const std::byte* cells = nullptr;      // one per row; numbers are NaN where there is none
  std::span<const BlockValue> values{};  // codes count them; of numbers: the first that is none, if any
  std::string_view texts{};

  bool has_codes() const { return form >= kCode8; }
  std::string_view text(size_t value) const {  // "" where missing
    const size_t begin = value == 0 ? 0 : values[value - 1].text_end;
    return texts.substr(begin, values[value].text_end - begin);
  }
  uint32_t code(size_t row) const;  // REQUIRES: has_codes()
  double number(size_t row) const;  // REQUIRES: not has_codes()

  // `visit` is given the cells of all rows as a span of their type: codes, or numbers.
  template <class Visit>
  void visit_codes(size_t rows, const Visit& visit) const {  // REQUIRES: has_codes()
    if (form == kCode8) return visit(std::span(reinterpret_cast<const uint8_t*>(cells), rows));
    if (form == kCode16) return visit(std::span(reinterpret_cast<const uint16_t*>(cells), rows));
    visit(std::span(reinterpret_cast<const uint32_t*>(cells), rows));
  }
  template <class Visit>
  void visit_numbers(size_t rows, const Visit& visit) const {  // REQUIRES: not has_codes()
    if (form == kF32) return visit(std::span(reinterpret_cast<const float*>(cells), rows));
    visit(std::span(reinterpret_cast<const double*>(cells), rows));
  }
};

// The bytes of a block of `contents`, whose columns `uses` describes; those that are ignored are left out.
// Error{invalid_argument} names the column, and `bad_row`: a text that is not UTF-8.
std::vector<std::byte> make_block(const TableContents& contents, std::span<const ColumnUse> uses,
                                  const TableRules& rules, int64_t* bad_row);

// A view of such bytes, which must outlive it and lie on a multiple of eight.  Error{data_loss}: they are not
// a block.
class Block {
 public:
  explicit Block(std::span<const std::byte> bytes);
  size_t rows() const { return rows_; }
  const std::vector<BlockColumn>& columns() const { return columns_; }

 private:
  size_t rows_ = 0;
  std::vector<BlockColumn> columns_;
};

}  // namespace furrow::data
