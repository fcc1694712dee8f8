#include "furrow/data/table_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cctype>
#include <exception>
#include <mutex>
#include <optional>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/hash.h"
#include "furrow/base/names.h"
#include "furrow/base/process.h"
#include "furrow/base/text.h"
#include "furrow/data/dataset.h"
#include "furrow/data/files.h"
#include "furrow/data/opening.h"
#include "furrow/data/parallel_source.h"
#include "furrow/data/table_columns.h"
#include "furrow/data/table_feed.h"

namespace furrow::data {
namespace {

namespace fs = std::filesystem;

// Values of one batch of a row group: in memory in several forms at once, for each thread.
constexpr int64_t kBatchCells = int64_t{1} << 20;
constexpr int64_t kMostBatchRows = int64_t{1} << 16, kLeastBatchRows = 256;

// Rows of a table that is read into memory wait there to be encoded, as many as come of so many parts; others
// do so in a file without a name.
constexpr uint64_t kPartsInMemory = 32;

[[noreturn]] void invalid(const std::string& message) { throw Error(ErrorCode::kInvalidArgument, message); }

bool listed(const std::vector<std::string>& names, std::string_view name) {
  return std::ranges::find(names, name) != names.end();
}

// Where a part or a block of the table begins.
using Place = std::pair<uint64_t, uint64_t>;

// What went wrong, and in which row of the block that begins there (-1: no one row).
struct Failure {
  Place at;
  int64_t row = -1;
  Error error;
};

// What the row is called, from 0: rows of Parquet count from the file's beginning themselves.
int64_t row_of_file(const TableStore& store, const std::string& file, const RowOfBlock& row) {
  const bool parquet = is_parquet_name(file);
  const int64_t before = parquet ? static_cast<int64_t>(row.begin) : store.rows_before(row.file, row.begin);
  return before + static_cast<int64_t>(row.row);
}

// Reads with several threads; one object for each table.
class Reading {
 public:
  Reading(const TableRequest& request, const WhileOpening& opening, TableStore& store)
      : request_(request),
        opening_(opening),
        store_(store),
        threads_(opening.threads > 0 ? opening.threads : core_count()) {
    for (const fs::path& path : request.files) total_ += fs::file_size(path);
  }

  TableRead run() {
    open_next_file();
    try {
      columns_ = columns_of(request_, parts_->columns());
    } catch (const Error& error) {
      throw error.with_context(request_.files[0].string());
    }
    types_ = std::vector<std::atomic<int>>(columns_.names.size());
    summaries_.resize(columns_.names.size());
    for (const BlockPlace& place : store_.places()) add_to(summaries_, place, store_.load(place)->block());
    for (size_t c = 0; c < summaries_.size(); ++c) types_[c] = type_of(summaries_[c]);
    run_on_threads(threads_, "furrow-table", [this] { work(); });
    if (failure_) throw_failure();
    TableRead read;
    for (const fs::path& path : request_.files) read.files.push_back(path.string());
    read.columns = columns_.names;
    read.known = columns_.known;
    read.summaries = std::move(summaries_);
    return read;
  }

 private:
  // What the blocks that are there already say.
  static int type_of(const ColumnSummary& summary) {
    if (!summary.typed) return kUnknown;
    return summary.dated ? kDates : kNumbers;
  }

  void work() {
    std::vector<ColumnSummary> summaries(columns_.names.size());
    TablePart part;
    while (next(part)) {
      if (part.parquet != nullptr) {
        read_group(part, summaries);
      } else {
        read_rows(part, summaries);
      }
      advance(part.weight);
    }
    const std::lock_guard lock(results_);
    for (size_t c = 0; c < summaries.size(); ++c) summaries_[c].add(summaries[c], columns_.most_texts[c]);
  }

  // False at the end, or after a failure: what lies before it has been handed out already.
  bool next(TablePart& part) {
    const std::lock_guard lock(feed_);
    part = {};
    if (stop_) return false;
    uint64_t skipped = 0;
    const bool more = guarded({file_ - 1, UINT64_MAX}, [&] {
      check_cancelled();
      while (parts_ != nullptr && !parts_->next(store_, part, skipped, [this] { check_cancelled(); }))
        open_next_file();
    });
    advance(skipped);
    return more && parts_ != nullptr;
  }

  // `parts_` is null behind the last one.
  void open_next_file() {
    parts_ = nullptr;
    if (file_ == request_.files.size()) return;
    const fs::path& path = request_.files[file_++];
    try {
      parts_ = open_parts(path, file_ - 1, request_.format, opening_.table_part_bytes,
                          [this] { check_cancelled(); });
      if (file_ > 1) check_same_columns(parts_->columns());
    } catch (const Error& error) {
      throw error.with_context(path.string());
    }
  }

  void check_same_columns(const std::vector<std::string>& names) const {
    const std::string first = request_.files[0].string();
    for (const std::string& name : columns_.names) {
      if (!listed(names, name)) invalid(fmt::format("it has no column '{}', but {} has", name, first));
    }
    for (const std::string& name : names) {
      if (!listed(columns_.known, name) && !listed(request_.format.ignored, name))
        invalid(fmt::format("{} has no column '{}': list it in data.ignore_columns", first, name));
    }
  }

  void check_cancelled() const { data::check_cancelled(opening_, "the table was read", opening_.spool); }

  void read_rows(const TablePart& part, std::vector<ColumnSummary>& summaries) {
    BadRow bad;
    guarded({part.file, part.begin}, &bad.row, [&] {
      TableContents contents;
      if (part.rows.find_first_not_of("\r\n") != part.rows.npos) contents = parse(part, bad);
      keep({part.file, part.begin, part.end, contents.rows}, contents, summaries, bad.row);
    });
  }

  TableContents parse(const TablePart& part, BadRow& bad) const {
    std::vector<uint8_t> wanted;
    for (const std::string& name : *part.names) wanted.push_back(listed(columns_.names, name));
    try {
      return parse_csv({part.rows, request_.format.delimiter, *part.names, wanted}, &bad);
    } catch (const Error& error) {
      if (bad.row < 0) throw;
      invalid(error.message() + ": correct the row, or set data.delimiter to what is between columns");
    }
  }

  void read_group(const TablePart& part, std::vector<ColumnSummary>& summaries) {
    const auto columns = static_cast<int64_t>(std::max<size_t>(1, columns_.names.size()));
    const int64_t most = std::clamp(kBatchCells / columns, kLeastBatchRows, kMostBatchRows);
    const bool alone =
        request_.files.size() == 1 && part.parquet->group_rows().size() < static_cast<size_t>(threads_);
    uint64_t row = part.begin;
    const auto take = [&](TableContents& contents) {
      int64_t bad_row = -1;
      const BlockPlace place{part.file, row, row + static_cast<uint64_t>(contents.rows), contents.rows};
      const bool kept = guarded({part.file, row}, &bad_row, [&] {
        check_cancelled();
        const BlockPlace* const there = store_.find(part.file, row);
        if (there == nullptr) keep(place, contents, summaries, bad_row);
      });
      row = place.end;
      return kept && !stops_before({part.file, part.begin});
    };
    int64_t no_row = -1;
    guarded({part.file, part.begin}, &no_row, [&] { part.parquet->read(part.group, most, alone, take); });
  }

  // In the order of the first file, and of one type throughout.
  void arrange(TableContents& contents) {
    std::vector<TableColumn> arranged;
    for (size_t c = 0; c < columns_.names.size(); ++c) {
      const auto found = std::ranges::find(contents.columns, columns_.names[c], &TableColumn::name);
      FURROW_CHECK(found != contents.columns.end(), "a column that was not read");
      check_type(c, *found);
      arranged.push_back(std::move(*found));
    }
    contents.columns = std::move(arranged);
  }

  // All files have one type for a column, one that its use can read.
  void check_type(size_t c, const TableColumn& column) {
    if (column.is_null) return;
    const std::string& name = columns_.names[c];
    int before = kUnknown;
    const int type = column.is_date ? kDates : column.is_text ? kText : kNumbers;
    if (!types_[c].compare_exchange_strong(before, type) && before != type) {
      constexpr std::array<const char*, 4> kWords = {"", "text", "numbers", "dates"};
      invalid(fmt::format("column '{}' is {} in some of the files and {} in others: write all of them alike",
                          name, kWords[static_cast<size_t>(std::min(type, before))],
                          kWords[static_cast<size_t>(std::max(type, before))]));
    }
    const ColumnUse use = columns_.uses[c];
    if (type == kNumbers && use == ColumnUse::kDate)
      invalid(
          fmt::format("column '{}' holds numbers, but is to be read as dates: write it as dates, or train "
                      "without data.date_columns",
                      name));
    if (type != kDates || use == ColumnUse::kAuto || use == ColumnUse::kDate) return;
    invalid(name == request_.rules.target
                ? fmt::format("the target '{}' holds dates: write it as a number, or predict another column",
                              name)
                : fmt::format("column '{}' holds dates, which are read as days: list it neither in "
                              "data.categorical_columns nor in data.numeric_columns",
                              name));
  }

  void keep(const BlockPlace& place, TableContents& contents, std::vector<ColumnSummary>& summaries,
            int64_t& bad_row) {
    if (contents.rows == 0) contents.columns.assign(columns_.names.size(), {});
    if (contents.rows > 0) arrange(contents);
    const std::vector<std::byte> bytes = make_block(contents, columns_.uses, request_.rules, &bad_row);
    add_to(summaries, place, Block(bytes));
    store_.add(place, bytes);
  }

  void add_to(std::vector<ColumnSummary>& summaries, const BlockPlace& place, const Block& block) const {
    if (block.columns().size() != summaries.size())
      throw Error(ErrorCode::kDataLoss, "a block of rows has other columns");
    for (size_t c = 0; c < summaries.size(); ++c)
      summaries[c].add(place, block.columns()[c], columns_.most_texts[c]);
  }

  // False: what `work` has thrown is the failure, unless there is one that lies before it.
  template <class Work>
  bool guarded(const Place& at, const int64_t* row, const Work& work) {
    try {
      work();
      return true;
    } catch (const Error& error) {
      fail({at, *row, error});
    } catch (const std::exception& error) {
      fail({at, -1, Error(ErrorCode::kResourceExhausted, error.what())});  // such as std::bad_alloc
    }
    return false;
  }
  template <class Work>
  bool guarded(const Place& at, const Work& work) {
    const int64_t none = -1;
    return guarded(at, &none, work);
  }

  void fail(Failure failure) {
    const std::lock_guard lock(results_);
    stop_ = true;
    // A bad row is told although somebody interrupts.
    if (failure.error.code() == ErrorCode::kCancelled) failure.at = {UINT64_MAX, 0};
    if (!failure_ || failure.at < failure_->at) failure_ = std::move(failure);
  }

  bool stops_before(const Place& at) {
    const std::lock_guard lock(results_);
    return failure_ && failure_->at < at;
  }

  [[noreturn]] void throw_failure() const {
    const auto& [at, row, error] = *failure_;
    if (error.code() == ErrorCode::kCancelled || !error.contexts().empty()) throw error;
    const std::string path = request_.files[at.first].string();
    if (row < 0) throw error.with_context(path);
    const int64_t number = row_of_file(store_, path, {at.first, at.second, static_cast<uint64_t>(row)}) + 1;
    throw error.with_context(fmt::format("row {}", number)).with_context(path);
  }

  void advance(uint64_t bytes) {
    const std::lock_guard lock(results_);
    done_ = std::min(total_, done_ + bytes);
    if (opening_.progress && total_ > 0) opening_.progress(done_, total_);
  }

  const TableRequest& request_;
  const WhileOpening& opening_;
  TableStore& store_;
  const int threads_;
  TableColumns columns_;
  enum : int { kUnknown, kText, kNumbers, kDates };
  std::vector<std::atomic<int>> types_;  // of columns
  std::mutex feed_;                      // of what follows
  std::unique_ptr<PartsOfFile> parts_;
  uint64_t file_ = 0;   // the one behind `parts_`
  std::mutex results_;  // of what follows
  std::vector<ColumnSummary> summaries_;
  std::optional<Failure> failure_;
  uint64_t done_ = 0, total_ = 0;
  std::atomic<bool> stop_{false};
};

// What the blocks of a table depend on, but for which files it is made of.
std::string fingerprint_of(const TableRequest& request) {
  const TableRules& rules = request.rules;
  const TableFormat& format = request.format;
  std::string text = fmt::format("{}\n{}\n{}\n{}\n{}\n", rules.target, rules.number_target, rules.trim,
                                 static_cast<int>(format.delimiter), static_cast<int>(rules.decimal));
  for (const auto* names :
       {&rules.categorical, &rules.numeric, &rules.dates, &rules.missing, &format.names, &format.ignored})
    text += fmt::format("{}\n{}\n", names->size(), join(*names, "\n"));
  for (const fs::path& path : request.files) text += stamp_of(path);
  return text;
}

// In a file of the folder, or in memory.
std::unique_ptr<TableStore> store_of(const TableRequest& request, const WhileOpening& opening) {
  if (opening.spool.empty()) return std::make_unique<TableStore>(kPartsInMemory * opening.table_part_bytes);
  std::string names;
  for (const fs::path& path : request.files) names += path.string() + '\n';
  if (request.encoder != nullptr) {
    for (const auto& [key, value] : request.encoder->state()) names += key + '\n' + value + '\n';
  }
  make_directories(opening.spool.string());
  return std::make_unique<TableStore>(
      opening.spool / fmt::format("{}{}", to_hex(xxh3_64(names)), kRowsSuffix), fingerprint_of(request));
}

}  // namespace

void TableRead::throw_at(const RowOfBlock& row, const std::string& column, const std::string& message) const {
  const std::string& file = files[row.file];
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("column '{}', row {}: {}", column, row_of_file(*store, file, row) + 1, message))
      .with_context(file);
}

TableRead read_table(const TableRequest& request, const WhileOpening& opening) {
  auto store = store_of(request, opening);
  TableRead read = Reading(request, opening, *store).run();
  store->seal();
  if (store->rows() == 0)
    throw Error(ErrorCode::kInvalidArgument, "there are no rows").with_context(read.files[0]);
  read.store = std::move(store);
  return read;
}

bool is_parquet_name(const fs::path& path) {
  const std::string ending = table_ending(path);
  return ending == ".parquet" || ending == ".parq" || ending == ".pq";
}

std::string table_ending(const fs::path& path) {
  const fs::path last = path.extension();
  const bool packed = last == ".gz" || last == ".zst" || last == ".bz2";
  std::string ending = (packed ? path.stem() : path).extension().string();
  for (char& c : ending) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return ending;
}

}  // namespace furrow::data
