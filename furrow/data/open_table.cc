// The "table" kind: rows of CSV or Parquet files, some columns the input, one the target.
#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/names.h"
#include "furrow/base/process.h"
#include "furrow/base/text.h"
#include "furrow/data/parallel_source.h"
#include "furrow/data/source_kinds.h"
#include "furrow/data/split.h"
#include "furrow/data/table.h"
#include "furrow/data/table_files.h"
#include "furrow/data/table_fit.h"

namespace furrow::data {
namespace {

namespace fs = std::filesystem;
using preprocess::TableEncoder;

CarvedRows carve(const DatasetOptions& options, int64_t rows) {
  const int64_t validation =
      fraction_count(options.validation_fraction, rows, "data.validation_fraction", "rows");
  const int64_t test = fraction_count(options.test_fraction, rows, "data.test_fraction", "rows");
  if (validation + test >= rows) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("validation and test fractions {} + {} of {} rows leave nothing to train on",
                            options.validation_fraction, options.test_fraction, rows));
  }
  return carve_rows(rows, validation, test, options.seed);
}

// A test file may lack such a column.
void check_ignored(const TableFormat& format, const TableRead& table) {
  for (const std::string& name : format.ignored) {
    if (std::ranges::find(table.known, name) != table.known.end()) continue;
    throw Error(
        ErrorCode::kInvalidArgument,
        table.files[0] + ": " + unknown_name_message("column in data.ignore_columns", name, table.known));
  }
}

struct Read {
  TableRead table;
  CarvedRows rows;
  std::shared_ptr<const TableEncoder> encoder;
};

Read read_and_fit(const DatasetOptions& options, std::shared_ptr<const TableEncoder> fitted,
                  ReaderPool& pool) {
  const TableRequest request{train_files(options), options.table_format, options.table_rules, fitted.get()};
  Read read{read_table(request, options.opening), {}, std::move(fitted)};
  check_ignored(options.table_format, read.table);
  read.rows = carve(options, read.table.store->rows());
  if (read.encoder == nullptr) {
    read.encoder = std::make_shared<const TableEncoder>(
        fit_table(read.table, options.table_rules, read.rows.train, pool, options.opening));
  }
  return read;
}

std::unique_ptr<Source> source_of(std::shared_ptr<const TableRows> rows) {
  return rows->size() == 0 ? nullptr : std::make_unique<TableSource>(std::move(rows));
}

std::unique_ptr<Source> source_of(const std::shared_ptr<RowMemory>& memory, size_t split,
                                  std::shared_ptr<const TableEncoder> encoder) {
  return source_of(std::make_shared<EncodedRows>(memory, split, std::move(encoder)));
}

// In memory, or where an opening keeps them.  Returns where other processes can map them.
std::string add_splits(Dataset& dataset, const std::shared_ptr<FittedTable>& table, CarvedRows& rows,
                       const WhileOpening& opening, ReaderPool& pool) {
  std::unique_ptr<Source>* const splits[] = {&dataset.train, &dataset.validation, &dataset.test};
  RowSet* const sets[] = {&rows.train, &rows.validation, &rows.test};
  if (!opening.spool.empty()) {
    for (size_t i = 0; i < 3; ++i)
      *splits[i] = source_of(std::make_shared<StoredRows>(table, std::move(*sets[i])));
    return "";
  }
  const auto memory = encode_rows(*table, {sets[0], sets[1], sets[2]}, opening.share, pool);
  for (size_t i = 0; i < 3; ++i) *splits[i] = source_of(memory, i, table->encoder());
  return memory->place();
}

// A table of its own for the test: the first split of its rows.
std::unique_ptr<Source> open_test(const DatasetOptions& options, const std::vector<fs::path>& files,
                                  std::shared_ptr<const TableEncoder> encoder, ReaderPool& pool,
                                  std::string* place) {
  const TableRequest request{files, options.table_format, options.table_rules, encoder.get()};
  const auto table =
      std::make_shared<FittedTable>(read_table(request, options.opening), options.table_rules, encoder);
  CarvedRows rows{.train = RowSet::all(table->store().rows()), .validation = {}, .test = {}};
  if (!options.opening.spool.empty()) table->check(pool);
  Dataset test;
  *place = add_splits(test, table, rows, options.opening, pool);
  return std::move(test.train);
}

Dataset dataset_of(const TableEncoder& encoder) {
  Dataset dataset;
  dataset.preprocessing = encoder.state();
  dataset.preprocessing["classes"] = fmt::format("{}", encoder.outputs());
  return dataset;
}

// What another process of this host has read; nothing where it cannot be mapped.  `shared`: where its rows
// are, then, if there is one, where those of the table for the test are.
std::optional<Dataset> map_splits(const DatasetOptions& options, const Preprocessing& preprocessing) {
  const std::shared_ptr<const TableEncoder> encoder = preprocess::load_as<TableEncoder>(preprocessing);
  const std::vector<std::string> places = split(options.opening.shared, '\n');
  std::vector<std::shared_ptr<RowMemory>> memories;
  for (const std::string& place : places) memories.push_back(RowMemory::map(place, cells_of_row(*encoder)));
  if (std::ranges::find(memories, nullptr) != memories.end()) return std::nullopt;
  Dataset dataset = dataset_of(*encoder);
  dataset.train = source_of(memories[0], 0, encoder);
  dataset.validation = source_of(memories[0], 1, encoder);
  dataset.test =
      memories.size() > 1 ? source_of(memories[1], 0, encoder) : source_of(memories[0], 2, encoder);
  if (dataset.train == nullptr) return std::nullopt;
  return dataset;
}

ReaderPool pool_of(const WhileOpening& opening) {
  return ReaderPool(opening.threads > 0 ? opening.threads : core_count());
}

Dataset open_splits(const DatasetOptions& options, const Preprocessing* preprocessing) {
  if (preprocessing != nullptr && !options.opening.shared.empty()) {
    if (auto mapped = map_splits(options, *preprocessing)) return std::move(*mapped);
  }
  const std::vector<fs::path> test = test_files(options);
  if (!test.empty() && options.test_fraction > 0) {
    throw Error(ErrorCode::kInvalidArgument,
                "data.test_table and data.test_fraction both make a test split: set one of them");
  }
  ReaderPool pool = pool_of(options.opening);
  const bool stored = !options.opening.spool.empty();
  std::shared_ptr<const TableEncoder> fitted;
  if (preprocessing != nullptr) fitted = preprocess::load_as<TableEncoder>(*preprocessing);
  Read read = read_and_fit(options, fitted, pool);
  const auto table = std::make_shared<FittedTable>(std::move(read.table), options.table_rules, read.encoder);
  if (stored && fitted != nullptr) table->check(pool);
  Dataset dataset = dataset_of(*read.encoder);
  dataset.shared = add_splits(dataset, table, read.rows, options.opening, pool);
  if (test.empty()) return dataset;
  // Now, so that a row that cannot be read ends no run after its training.
  std::string place;
  dataset.test = open_test(options, test, read.encoder, pool, &place);
  if (!place.empty()) dataset.shared += "\n" + place;
  return dataset;
}

// Rows of a table that is refused are of no use to a later opening.
void remove_rows(const fs::path& spool) {
  if (spool.empty() || !fs::is_directory(spool)) return;
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(spool)) {
    if (entry.path().filename().string().ends_with(kRowsSuffix)) found.push_back(entry.path());
  }
  for (const fs::path& path : found) remove_all(path.string());
}

}  // namespace

Dataset open_table(const DatasetOptions& options, const Preprocessing* preprocessing) {
  try {
    return open_splits(options, preprocessing);
  } catch (const Error& error) {
    const bool goes_on =
        error.code() == ErrorCode::kCancelled || error.code() == ErrorCode::kResourceExhausted;
    if (!goes_on) remove_rows(options.opening.spool);
    throw;
  }
}

DataInfo probe_table(const DatasetOptions& options) {
  ReaderPool pool = pool_of(options.opening);
  const Read read = read_and_fit(options, nullptr, pool);
  return {table_fields(*read.encoder), read.encoder->outputs(), read.rows.train.size()};
}

}  // namespace furrow::data
