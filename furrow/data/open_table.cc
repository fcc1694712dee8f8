// The "table" kind: rows of CSV or Parquet files, some columns the input, one the target.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/names.h"
#include "furrow/data/files.h"
#include "furrow/data/source_kinds.h"
#include "furrow/data/split.h"
#include "furrow/data/table.h"

namespace furrow::data {
namespace {

namespace fs = std::filesystem;
using preprocess::TableEncoder;

// `path` itself, or a file in that folder.
fs::path train_file(const DatasetOptions& options) {
  if (!fs::is_directory(options.path)) return require_file(options.path);
  if (options.table_train.empty()) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("{} is a folder: name the table in it with [data] train_table", options.path.string()));
  }
  return require_file(options.path / options.table_train);
}

fs::path test_file(const DatasetOptions& options) {
  if (options.table_test.empty()) return {};
  const fs::path folder = fs::is_directory(options.path) ? options.path : options.path.parent_path();
  return require_file(folder / options.table_test);
}

// Random rows: of the whole, those for the test and for validation.
struct Rows {
  std::vector<uint32_t> train, validation, test;
};

Rows carve_rows(const DatasetOptions& options, int64_t rows) {
  const int64_t validation =
      fraction_count(options.validation_fraction, rows, "data.validation_fraction", "rows");
  const int64_t test = fraction_count(options.test_fraction, rows, "data.test_fraction", "rows");
  if (validation + test >= rows) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("validation and test fractions {} + {} of {} rows leave nothing to train on",
                            options.validation_fraction, options.test_fraction, rows));
  }
  Carved kept = carve(rows, validation + test, options.seed);
  Rows carved{.train = std::move(kept.train), .validation = {}, .test = {}};
  if (test == 0) {
    carved.validation = std::move(kept.validation);
    return carved;
  }
  const Carved parts = carve(validation + test, validation, ~options.seed);
  for (const uint32_t at : parts.train) carved.test.push_back(kept.validation[at]);
  for (const uint32_t at : parts.validation) carved.validation.push_back(kept.validation[at]);
  return carved;
}

struct Read {
  std::string file;
  TableContents contents;
  Rows rows;
  std::shared_ptr<const TableEncoder> encoder;
};

// A test file may lack such a column.
void check_ignored(const TableFormat& format, const TableContents& contents, const std::string& file) {
  std::vector<std::string> known = contents.left_out;
  for (const TableColumn& column : contents.columns) known.push_back(column.name);
  for (const std::string& name : format.ignored) {
    if (std::ranges::find(contents.left_out, name) != contents.left_out.end()) continue;
    throw Error(ErrorCode::kInvalidArgument,
                file + ": " + unknown_name_message("column in data.ignore_columns", name, known));
  }
}

Read read_and_fit(const DatasetOptions& options, const Preprocessing* preprocessing) {
  const fs::path file = train_file(options);
  Read read{file.string(), read_table(file, options.table_format), {}, nullptr};
  check_ignored(options.table_format, read.contents, read.file);
  read.rows = carve_rows(options, read.contents.rows);
  if (preprocessing != nullptr) {
    read.encoder = preprocess::load_as<TableEncoder>(*preprocessing);
    return read;
  }
  try {
    read.encoder =
        std::make_shared<const TableEncoder>(fit_table(read.contents, options.table_rules, read.rows.train));
  } catch (const Error& error) {
    throw error.with_context(read.file);
  }
  return read;
}

std::shared_ptr<const EncodedTable> encode(const std::string& file, const TableContents& contents,
                                           const TableRules& rules,
                                           std::shared_ptr<const TableEncoder> encoder) {
  try {
    return std::make_shared<const EncodedTable>(contents, rules, std::move(encoder));
  } catch (const Error& error) {
    throw error.with_context(file);
  }
}

}  // namespace

Dataset open_table(const DatasetOptions& options, const Preprocessing* preprocessing) {
  const fs::path test = test_file(options);
  if (!test.empty() && options.test_fraction > 0) {
    throw Error(ErrorCode::kInvalidArgument,
                "data.test_table and data.test_fraction both make a test split: set one of them");
  }
  Read read = read_and_fit(options, preprocessing);
  const auto table = encode(read.file, read.contents, options.table_rules, read.encoder);
  read.contents = {};
  Dataset dataset;
  dataset.preprocessing = read.encoder->state();
  dataset.preprocessing["classes"] = fmt::format("{}", read.encoder->outputs());
  dataset.train = std::make_unique<TableSource>(table, std::move(read.rows.train));
  if (!read.rows.validation.empty()) {
    dataset.validation = std::make_unique<TableSource>(table, std::move(read.rows.validation));
  }
  if (!read.rows.test.empty()) dataset.test = std::make_unique<TableSource>(table, std::move(read.rows.test));
  if (!test.empty()) {
    // Now, so that a row that cannot be read ends no run after its training.
    const auto rows =
        encode(test.string(), read_table(test, options.table_format), options.table_rules, read.encoder);
    dataset.test = std::make_unique<TableSource>(rows, std::vector<uint32_t>());
  }
  return dataset;
}

DataInfo probe_table(const DatasetOptions& options) {
  const Read read = read_and_fit(options, nullptr);
  return {table_fields(*read.encoder), read.encoder->outputs(), static_cast<int64_t>(read.rows.train.size())};
}

}  // namespace furrow::data
