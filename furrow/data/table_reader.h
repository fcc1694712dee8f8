// Reading tables: files of rows into blocks, side by side on every core, little of the files in memory at
// once.  What comes out does not depend on threads and interruptions.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "furrow/data/table_store.h"
#include "furrow/data/table_summary.h"
#include "furrow/preprocess/table_encoder.h"

namespace furrow::data {

struct WhileOpening;

struct TableRequest {
  std::vector<std::filesystem::path> files;  // parts of one table, in order; at least one
  TableFormat format = {};
  TableRules rules = {};
  // What was fitted earlier and says what columns are; null: nothing.
  const preprocess::TableEncoder* encoder = nullptr;
};

struct TableRead {
  std::vector<std::string> files;
  std::vector<std::string> columns;  // of the blocks
  std::vector<std::string> known;    // of the files
  std::vector<ColumnSummary> summaries;
  std::unique_ptr<TableStore> store;  // sealed

  // Error{invalid_argument}: `message` about a row, with its file and its number there.
  [[noreturn]] void throw_at(const RowOfBlock& row, const std::string& column,
                             const std::string& message) const;
};

// Of each file by its ending: .parquet (.parq, .pq), else CSV (RFC 4180), all of whose columns are text;
// each with .gz, .zst or .bz2 behind.  All have the columns of the first, by name. Error{data_loss}: a
// damaged file; {invalid_argument}: a row with too few or too many columns, text that is not UTF-8 (both with
// the number of the row in its file, the first of several), two columns of one name, a Parquet column of a
// type that is neither numbers nor text, no rows, a column that the rules name and the table lacks;
// {failed_precondition}: libfurrow_tables.so cannot be opened; {cancelled}.  All name the file.
TableRead read_table(const TableRequest& request, const WhileOpening& opening);

// Is the file one of Parquet, by its name?
bool is_parquet_name(const std::filesystem::path& path);
// In small letters, without .gz, .zst or .bz2: ".csv".
std::string table_ending(const std::filesystem::path& path);

}  // namespace furrow::data
