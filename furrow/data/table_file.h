// Rows of CSV and Parquet, parsed by Arrow in a library of its own that is opened when the first table is
// read.  Only standard types, and the types below, cross its border.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace furrow::data {

// Either numbers or text, one per row.
struct TableColumn {
  std::string name;
  bool is_text = false;
  bool is_date = false;              // the numbers are days since 1970-01-01, or shares of a day
  bool is_null = false;              // the file says no more than that there are no values; as text
  bool is_coded = false;             // text, of which the file numbers the different values
  std::vector<double> numbers;       // NaN where there is none
  std::string text;                  // of all rows, or of the different values, one after the other
  std::vector<uint32_t> ends;        // where the text of each of them ends
  std::vector<uint8_t> valid;        // 0: the file has no value here; empty: it has one everywhere
  std::vector<uint32_t> codes = {};  // of a coded column: the value of each row, kNoCode where there is none

  static constexpr uint32_t kNoCode = 0xFFFFFFFFu;
  size_t size() const { return is_coded ? codes.size() : is_text ? ends.size() : numbers.size(); }
  bool has(size_t row) const { return valid.empty() || valid[row] != 0; }
  std::string_view text_of(size_t row) const {
    const size_t value = is_coded ? codes[row] : row;
    if (value == kNoCode) return {};
    const size_t begin = value == 0 ? 0 : ends[value - 1];
    return std::string_view(text).substr(begin, ends[value] - begin);
  }
};

// Some rows of a table, without the columns that are left out.
struct TableContents {
  int64_t rows = 0;
  std::vector<TableColumn> columns;
};

struct TableFormat {
  char delimiter = ',';                // CSV
  std::vector<std::string> names{};    // CSV: of the columns; empty: the first line has them
  std::vector<std::string> ignored{};  // columns that are left out
};

// Whole rows of a CSV file (RFC 4180), without the line of names.
struct CsvRows {
  std::string_view bytes;  // below 2 GiB
  char delimiter = ',';
  std::span<const std::string> names;  // of all columns
  std::span<const uint8_t> wanted;     // by column; 0: it is left out
};

// A Parquet file that is open.  Thread safe.
class ParquetTable {
 public:
  virtual ~ParquetTable() = default;
  virtual const std::vector<std::string>& names() const = 0;   // of all columns
  virtual const std::vector<int64_t>& group_rows() const = 0;  // by row group
  // The rows of a group in their order, up to `most` at a time, until `take`, which does not throw, says
  // false.  `columns_at_once`: columns are decoded side by side.  Errors as Error below.
  virtual void read(size_t group, int64_t most, bool columns_at_once,
                    const std::function<bool(TableContents&)>& take) const = 0;
};

// Bytes from `offset` on; fewer than asked for at the end and where reading fails.  Thread safe, throws
// nothing.
using ReadAt = std::function<size_t(uint64_t offset, std::span<std::byte> out)>;

// How many rows of `rows` are before the one that is wrong; of Parquet -1.
struct BadRow {
  int64_t row = -1;
  std::string message;
};

// All columns are text; what is UTF-8 is not looked at.  Error{invalid_argument}: a row with too few or too
// many columns, which `bad` then names (from 0); {failed_precondition}: the library cannot be opened.
TableContents parse_csv(const CsvRows& rows, BadRow* bad);

// Columns that `ignored` lists are not read.  Numbers, also decimal ones and those of 16 bits, and booleans
// are numbers; dates and times are days since 1970-01-01, times of day shares of a day; texts are what is
// UTF-8, dictionaries what they hold.  Error{data_loss}: not such a file; {invalid_argument}: two columns of
// one name, a column of another type (lists, durations, bytes of a fixed length ...), which is named with
// what to do. Later reads have these errors as well.
std::unique_ptr<ParquetTable> open_parquet(uint64_t bytes, ReadAt read,
                                           const std::vector<std::string>& ignored);

// What a file compressed by `codec`, "zstd" or "bz2", expands to; `read`, which may throw, fills its argument
// with what comes next of it, fewer bytes only at its end.  Reading gives fewer bytes only at the end;
// Error{data_loss}: damaged or cut short.  Error{failed_precondition} as above, or the Arrow that is there
// lacks the codec.
std::function<size_t(std::span<std::byte>)> open_expander(const std::string& codec,
                                                          std::function<size_t(std::span<std::byte>)> read);

// What libfurrow_tables.so exports: the work with errors as values, since no code of furrow is in it.
struct TableFailure {
  bool failed = false, damaged = false;  // damaged: data_loss, else invalid_argument
  BadRow bad{};
};
class ParquetReader {
 public:
  virtual ~ParquetReader() = default;
  virtual const std::vector<std::string>& names() const = 0;
  virtual const std::vector<int64_t>& group_rows() const = 0;
  virtual void read(size_t group, int64_t most, bool columns_at_once,
                    const std::function<bool(TableContents&)>& take, TableFailure* failure) const = 0;
};
class Expander {
 public:
  virtual ~Expander() = default;
  // Of `in` and into `out` as much as goes, cut off their fronts.  True: a frame ends there.
  virtual bool expand(std::span<const std::byte>& in, std::span<std::byte>& out, TableFailure* failure) = 0;
  virtual void begin_frame(TableFailure* failure) = 0;
};
struct TableFunctions {
  int version = 0;
  void (*parse_csv)(const CsvRows& rows, TableContents* contents, TableFailure* failure) = nullptr;
  std::unique_ptr<ParquetReader> (*open_parquet)(uint64_t bytes, ReadAt read,
                                                 const std::vector<std::string>& ignored,
                                                 TableFailure* failure) = nullptr;
  std::unique_ptr<Expander> (*open_expander)(const std::string& codec, TableFailure* failure) = nullptr;
};
inline constexpr int kTableFunctionsVersion = 4;
inline constexpr const char* kTableFunctionsSymbol = "furrow_table_functions";
using GetTableFunctions = const TableFunctions* (*)();

}  // namespace furrow::data
