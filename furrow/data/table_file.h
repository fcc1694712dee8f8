// Tables from CSV and Parquet files, read by Arrow in a library of its own that is opened when the first
// table is read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace furrow::data {

// Either numbers or text, one per row.
struct TableColumn {
  std::string name;
  bool is_text = false;
  std::vector<double> numbers;  // NaN where there is none
  std::string text;             // of all rows, one after the other
  std::vector<uint64_t> ends;   // where each row's text ends
  std::vector<uint8_t> valid;   // 0: the file has no value here

  std::string_view text_of(size_t row) const {
    const size_t begin = row == 0 ? 0 : ends[row - 1];
    return std::string_view(text).substr(begin, ends[row] - begin);
  }
};

struct TableContents {
  int64_t rows = 0;
  std::vector<TableColumn> columns;
  std::vector<std::string> left_out = {};  // columns that TableFormat ignores
};

struct TableFormat {
  char delimiter = ',';                // CSV
  std::vector<std::string> names{};    // CSV: of the columns; empty: the first line has them
  std::vector<std::string> ignored{};  // columns that are left out
};

// By its ending: .parquet, else CSV (RFC 4180), all of whose columns are text; either with .gz behind.
// Error{data_loss}: not such a file; {invalid_argument}: a row with too few or too many columns (numbered),
// two columns of one name, a Parquet column of a type that is neither numbers nor text;
// {failed_precondition}: the library cannot be opened.  All name the file.
TableContents read_table(const std::filesystem::path& path, const TableFormat& format);

// The same from memory; `parquet` says which.
TableContents parse_table(std::string_view bytes, bool parquet, const TableFormat& format);

// What libfurrow_tables.so exports: parse_table's work with errors as values, since no code of furrow is in
// it.
struct TableOutcome {
  TableContents contents;
  bool failed = false, damaged = false;  // damaged: data_loss, else invalid_argument
  std::string message;
};
using ParseTableFunction = void (*)(std::string_view bytes, bool parquet, const TableFormat& format,
                                    TableOutcome* outcome);
inline constexpr const char* kParseTableSymbol = "furrow_parse_table";

}  // namespace furrow::data
