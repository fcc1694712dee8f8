#include "furrow/data/table_feed.h"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>
#include <set>

#include "furrow/base/error.h"
#include "furrow/base/text.h"
#include "furrow/data/csv_rows.h"
#include "furrow/data/table_reader.h"

namespace furrow::data {
namespace {

namespace fs = std::filesystem;

// A row that is longer has lost its closing quote.
constexpr size_t kLongestRow = size_t{256} << 20;

[[noreturn]] void invalid(const std::string& message) { throw Error(ErrorCode::kInvalidArgument, message); }

class CsvParts : public PartsOfFile {
 public:
  CsvParts(const fs::path& path, uint64_t file, const TableFormat& format, size_t part_bytes)
      : path_(path),
        file_(file),
        delimiter_(format.delimiter),
        part_bytes_(part_bytes),
        stream_(std::make_unique<ContentStream>(path)) {
    read_more(part_bytes_);
    check_kind();
    if (rest_.starts_with("\xEF\xBB\xBF")) take(3);  // a byte order mark
    names_ =
        std::make_shared<const std::vector<std::string>>(format.names.empty() ? read_names() : format.names);
    check_names();
  }

  const std::vector<std::string>& columns() const override { return *names_; }

  bool next(const TableStore& store, TablePart& part, uint64_t& skipped,
            const std::function<void()>& between) override {
    uint64_t behind = begin_;  // what is there already
    while (const BlockPlace* const place = store.find(file_, behind)) behind = place->end;
    if (behind > begin_) {
      skip(behind, between);
      skipped += untold();
    }
    const size_t rows = whole_part();
    if (rows == 0) return false;
    part = {.file = file_, .begin = begin_, .end = begin_ + rows, .weight = untold()};
    part.rows = take(rows);
    part.names = names_;
    return true;
  }

 private:
  void check_names() const {
    std::set<std::string_view> before;
    for (const std::string& name : *names_) {
      if (before.insert(name).second) continue;
      invalid(fmt::format("two columns have the same name, '{}': rename one of them", name));
    }
  }

  // Bytes of the file that were read since the last call.
  uint64_t untold() {
    const uint64_t taken = stream_->taken();
    return taken - std::exchange(told_, taken);
  }

  void read_more(size_t bytes) {
    const size_t before = rest_.size();
    rest_.resize(before + bytes);
    const size_t got = stream_->read(std::as_writable_bytes(std::span(rest_).subspan(before)));
    rest_.resize(before + got);
    last_ = got < bytes;
  }

  std::string take(size_t bytes) {
    std::string front = rest_.substr(0, bytes);
    rest_.erase(0, bytes);
    begin_ += bytes;
    return front;
  }

  void skip(uint64_t to, const std::function<void()>& between) {
    if (to - begin_ <= rest_.size()) {
      take(to - begin_);
      return;
    }
    stream_ = std::make_unique<ContentStream>(path_);
    stream_->skip(to, between);
    rest_.clear();
    begin_ = to;
    last_ = false;
  }

  // So many of the bytes that come are whole rows, all that are left at the end; 0: there are none.
  size_t whole_part() {
    for (size_t wanted = part_bytes_;; wanted *= 2) {
      if (!last_ && rest_.size() < wanted) read_more(wanted - rest_.size());
      const size_t rows = last_ ? rest_.size() : whole_rows(rest_, delimiter_);
      if (rows > 0 || last_) return rows;
      check_length();
    }
  }

  // What is no CSV by its first bytes.
  void check_kind() const {
    if (rest_.starts_with("PAR1"))
      invalid("this is a Parquet file: give it a name that ends in .parquet, or .parquet.gz");
    if (rest_.starts_with("\xFF\xFE") || rest_.starts_with("\xFE\xFF"))
      invalid("this is UTF-16: save it as UTF-8");
  }

  void check_length() const {
    if (rest_.size() <= kLongestRow) return;
    invalid(fmt::format("a row that begins at byte {} does not end within {}: is a quote not closed?", begin_,
                        format_bytes(kLongestRow)));
  }

  std::vector<std::string> read_names() {
    size_t length = 0;
    for (size_t wanted = part_bytes_; (length = first_row(rest_, delimiter_)) == 0 && !last_; wanted *= 2) {
      read_more(wanted);
      check_length();
    }
    const std::string line = take(length == 0 ? rest_.size() : length);
    const std::string_view names = std::string_view(line).substr(0, line.find_last_not_of("\r\n") + 1);
    if (names.empty()) invalid("there is no first line with the names of the columns");
    return names_of_line(names, delimiter_);
  }

  const fs::path path_;
  const uint64_t file_;
  const char delimiter_;
  const size_t part_bytes_;
  std::unique_ptr<ContentStream> stream_;
  uint64_t told_ = 0;  // bytes of the file
  std::shared_ptr<const std::vector<std::string>> names_;
  std::string rest_;    // read, not handed out
  uint64_t begin_ = 0;  // of it in the contents
  bool last_ = false;   // nothing comes behind
};

// What reads a Parquet file; an error of the system is kept until somebody can throw it.
class ParquetBytes {
 public:
  ParquetBytes(const fs::path& path, const std::function<void()>& between) : file_(path, between) {}
  uint64_t size() const { return file_.size(); }

  size_t read_at(uint64_t offset, std::span<std::byte> out) {
    try {
      return file_.read_at(offset, out);
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
      return 0;
    }
  }
  void rethrow() const {
    const std::lock_guard lock(mutex_);
    if (error_) std::rethrow_exception(error_);
  }

 private:
  RandomFile file_;
  mutable std::mutex mutex_;
  std::exception_ptr error_;
};

// As ParquetTable, with the system's own words where reading fails.
class CheckedParquet : public ParquetTable {
 public:
  CheckedParquet(const fs::path& path, const std::vector<std::string>& ignored,
                 const std::function<void()>& between)
      : bytes_(std::make_shared<ParquetBytes>(path, between)) {
    checked([&] {
      table_ = open_parquet(
          bytes_->size(),
          [bytes = bytes_](uint64_t offset, std::span<std::byte> out) { return bytes->read_at(offset, out); },
          ignored);
    });
  }
  const std::vector<std::string>& names() const override { return table_->names(); }
  const std::vector<int64_t>& group_rows() const override { return table_->group_rows(); }
  void read(size_t group, int64_t most, bool columns_at_once,
            const std::function<bool(TableContents&)>& take) const override {
    checked([&] { table_->read(group, most, columns_at_once, take); });
  }

 private:
  template <class Work>
  void checked(const Work& work) const {
    try {
      work();
    } catch (const Error&) {
      bytes_->rethrow();
      throw;
    }
  }

  std::shared_ptr<ParquetBytes> bytes_;
  std::unique_ptr<ParquetTable> table_;
};

class ParquetParts : public PartsOfFile {
 public:
  ParquetParts(const fs::path& path, uint64_t file, const TableFormat& format,
               const std::function<void()>& between)
      : file_(file),
        bytes_(fs::file_size(path)),
        table_(std::make_shared<CheckedParquet>(path, format.ignored, between)) {
    for (const int64_t rows : table_->group_rows())
      rows_ += static_cast<uint64_t>(std::max<int64_t>(0, rows));
  }

  const std::vector<std::string>& columns() const override { return table_->names(); }

  bool next(const TableStore& store, TablePart& part, uint64_t& skipped,
            const std::function<void()>& between) override {
    between();
    for (; group_ < table_->group_rows().size(); ++group_) {
      const auto rows = static_cast<uint64_t>(std::max<int64_t>(0, table_->group_rows()[group_]));
      const uint64_t begin = std::exchange(row_, row_ + rows);
      const uint64_t weight = bytes_ * rows / std::max<uint64_t>(1, rows_);
      uint64_t at = begin;
      for (const BlockPlace* place = store.find(file_, at); place != nullptr && at < row_;
           place = store.find(file_, at))
        at = place->end;
      if (at == row_) {
        skipped += weight;
        continue;
      }
      part = {.file = file_, .begin = begin, .end = row_, .weight = weight};
      part.parquet = table_;
      part.group = group_++;
      return true;
    }
    return false;
  }

 private:
  const uint64_t file_;
  const uint64_t bytes_;
  std::shared_ptr<const ParquetTable> table_;
  uint64_t rows_ = 0, row_ = 0;
  size_t group_ = 0;
};

}  // namespace

std::unique_ptr<PartsOfFile> open_parts(const fs::path& path, uint64_t file, const TableFormat& format,
                                        size_t part_bytes, const std::function<void()>& between) {
  if (is_parquet_name(path)) return std::make_unique<ParquetParts>(path, file, format, between);
  return std::make_unique<CsvParts>(path, file, format, part_bytes);
}

}  // namespace furrow::data
