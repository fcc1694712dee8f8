// libfurrow_tables.so: CSV and Parquet through Arrow.  Self-contained: only the types of table_file.h cross
// its border.
#include <arrow/api.h>
#include <arrow/csv/options.h>
#include <arrow/csv/parser.h>
#include <arrow/io/interfaces.h>
#include <arrow/util/compression.h>
#include <parquet/arrow/reader.h>
#include <parquet/file_reader.h>
#include <parquet/metadata.h>

#include <algorithm>
#include <charconv>
#include <exception>
#include <limits>
#include <memory>
#include <set>
#include <utility>

#include "furrow/data/arrow_columns.h"
#include "furrow/data/table_file.h"

namespace furrow::data {
namespace {

template <class T>
T value_or_fail(arrow::Result<T> result, bool damaged) {
  if (!result.ok()) fail(damaged, result.status().message());
  return std::move(result).ValueUnsafe();
}

// What an exported function does, with what it throws as a value.
template <class Work>
auto guarded(TableFailure* failure, const Work& work) -> decltype(work()) {
  try {
    return work();
  } catch (const TableFault& thrown) {
    *failure = {true, thrown.damaged, thrown.bad};
  } catch (const std::exception& error) {  // Parquet throws on some damage
    *failure = {true, true, {-1, error.what()}};
  }
  return decltype(work())();
}

// "CSV parse error: Row #12: Expected 3 columns, got 2: a,b": the number is that of the block, from 1.
BadRow bad_row(const std::string& message) {
  constexpr std::string_view kRow = "Row #";
  const size_t at = message.find(kRow);
  if (at == message.npos) return {-1, message};
  BadRow bad;
  const char* const end = message.data() + message.size();
  const auto [stop, error] = std::from_chars(message.data() + at + kRow.size(), end, bad.row);
  if (error != std::errc()) return {-1, message};
  --bad.row;
  bad.message = std::string(stop, end);
  if (bad.message.starts_with(": ")) bad.message.erase(0, 2);
  return bad;
}

TableContents csv_contents(const CsvRows& rows) {
  auto options = arrow::csv::ParseOptions::Defaults();
  options.delimiter = rows.delimiter;
  options.newlines_in_values = true;
  arrow::csv::BlockParser parser(options, static_cast<int32_t>(rows.names.size()), /*first_row=*/1,
                                 std::numeric_limits<int32_t>::max());
  uint32_t parsed = 0;
  const arrow::Status status = parser.ParseFinal(rows.bytes, &parsed);
  if (!status.ok()) throw TableFault{false, bad_row(status.message())};
  if (parsed != rows.bytes.size()) throw TableFault{false, {parser.num_rows(), "a quote is not closed"}};
  TableContents contents{.rows = parser.num_rows(), .columns = {}};
  for (size_t c = 0; c < rows.names.size(); ++c) {
    if (rows.wanted[c] == 0) continue;
    TableColumn column{
        .name = rows.names[c], .is_text = true, .numbers = {}, .text = {}, .ends = {}, .valid = {}};
    column.ends.reserve(static_cast<size_t>(contents.rows));
    column.text.reserve(rows.bytes.size() / rows.names.size());
    const auto visit = [&column](const uint8_t* data, uint32_t size, bool, bool) {
      append_text(column, {reinterpret_cast<const char*>(data), size});
      return arrow::Status::OK();
    };
    const arrow::Status visited = parser.VisitColumn(static_cast<int32_t>(c), visit);
    if (!visited.ok()) fail(false, visited.message());
    contents.columns.push_back(std::move(column));
  }
  return contents;
}

TableContents contents_of(const arrow::RecordBatch& batch) {
  const arrow::Status valid = batch.ValidateFull();
  if (!valid.ok()) fail(true, valid.message());
  TableContents contents{.rows = batch.num_rows(), .columns = {}};
  for (int c = 0; c < batch.num_columns(); ++c)
    contents.columns.push_back(column_of(batch.column_name(c), *batch.column(c)));
  return contents;
}

// A file whose bytes come from the caller.
class CallerFile : public arrow::io::RandomAccessFile {
 public:
  CallerFile(uint64_t bytes, furrow::data::ReadAt read)
      : bytes_(static_cast<int64_t>(bytes)), read_(std::move(read)) {}
  arrow::Status Close() override { return arrow::Status::OK(); }
  bool closed() const override { return false; }
  arrow::Result<int64_t> Tell() const override { return at_; }
  arrow::Result<int64_t> GetSize() override { return bytes_; }
  arrow::Status Seek(int64_t position) override {
    at_ = position;
    return arrow::Status::OK();
  }
  arrow::Result<int64_t> Read(int64_t count, void* out) override {
    ARROW_ASSIGN_OR_RAISE(const int64_t got, ReadAt(at_, count, out));
    at_ += got;
    return got;
  }
  arrow::Result<std::shared_ptr<arrow::Buffer>> Read(int64_t count) override {
    ARROW_ASSIGN_OR_RAISE(std::shared_ptr<arrow::Buffer> buffer, ReadAt(at_, count));
    at_ += buffer->size();
    return buffer;
  }
  arrow::Result<int64_t> ReadAt(int64_t position, int64_t count, void* out) override {
    if (position < 0 || count < 0) return arrow::Status::IOError("a place outside the file");
    return static_cast<int64_t>(
        read_(static_cast<uint64_t>(position), {static_cast<std::byte*>(out), static_cast<size_t>(count)}));
  }
  arrow::Result<std::shared_ptr<arrow::Buffer>> ReadAt(int64_t position, int64_t count) override {
    if (position < 0 || count < 0) return arrow::Status::IOError("a place outside the file");
    const int64_t there = std::clamp<int64_t>(bytes_ - position, 0, count);  // whatever the file claims
    ARROW_ASSIGN_OR_RAISE(std::shared_ptr<arrow::ResizableBuffer> buffer,
                          arrow::AllocateResizableBuffer(there));
    ARROW_ASSIGN_OR_RAISE(const int64_t got, ReadAt(position, there, buffer->mutable_data()));
    ARROW_RETURN_NOT_OK(buffer->Resize(got));
    return buffer;
  }

 private:
  const int64_t bytes_;
  const furrow::data::ReadAt read_;
  int64_t at_ = 0;
};

class Reader : public ParquetReader {
 public:
  Reader(uint64_t bytes, furrow::data::ReadAt read, const std::vector<std::string>& ignored)
      : bytes_(bytes), read_(std::move(read)) {
    const auto file = open(false, {});
    metadata_ = file->parquet_reader()->metadata();
    std::shared_ptr<arrow::Schema> schema;
    const arrow::Status status = file->GetSchema(&schema);
    if (!status.ok()) fail(true, status.message());
    std::set<std::string> wanted;
    for (const auto& field : schema->fields()) {
      names_.push_back(field->name());
      if (std::find(ignored.begin(), ignored.end(), field->name()) != ignored.end()) continue;
      check_type(field->name(), *field->type());
      if (!wanted.insert(field->name()).second) fail(false, "two columns are named '" + field->name() + "'");
    }
    for (int leaf = 0; leaf < metadata_->num_columns(); ++leaf) {
      if (wanted.contains(metadata_->schema()->GetColumnRoot(leaf)->name())) leaves_.push_back(leaf);
    }
    for (int group = 0; group < metadata_->num_row_groups(); ++group)
      group_rows_.push_back(metadata_->RowGroup(group)->num_rows());
  }

  const std::vector<std::string>& names() const override { return names_; }
  const std::vector<int64_t>& group_rows() const override { return group_rows_; }

  void read(size_t group, int64_t most, bool columns_at_once, const std::function<bool(TableContents&)>& take,
            TableFailure* failure) const override {
    guarded(failure, [&] {
      const auto file = open(columns_at_once, coded_leaves(static_cast<int>(group)));
      file->set_batch_size(most);
      const auto batches =
          value_or_fail(file->GetRecordBatchReader({static_cast<int>(group)}, leaves_), true);
      int64_t rows = 0;
      while (const std::shared_ptr<arrow::RecordBatch> batch = value_or_fail(batches->Next(), true)) {
        TableContents contents = contents_of(*batch);
        rows += contents.rows;
        if (!take(contents)) return;
      }
      if (rows != group_rows_[group]) fail(true, "a row group has another number of rows than it says");
    });
  }

 private:
  // Those of a group whose texts the file numbers, all of them: Arrow need not put them side by side.
  std::vector<int> coded_leaves(int group) const {
    const auto row_group = metadata_->RowGroup(group);
    std::vector<int> coded;
    for (const int leaf : leaves_) {
      const auto chunk = row_group->ColumnChunk(leaf);
      const bool text = metadata_->schema()->Column(leaf)->physical_type() == parquet::Type::BYTE_ARRAY;
      if (text && is_coded(chunk->encoding_stats())) coded.push_back(leaf);
    }
    return coded;
  }

  static bool is_coded(const std::vector<parquet::PageEncodingStats>& pages) {
    size_t data = 0;
    for (const parquet::PageEncodingStats& page : pages) {
      if (page.page_type != parquet::PageType::DATA_PAGE && page.page_type != parquet::PageType::DATA_PAGE_V2)
        continue;
      ++data;
      if (page.encoding != parquet::Encoding::RLE_DICTIONARY &&
          page.encoding != parquet::Encoding::PLAIN_DICTIONARY)
        return false;
    }
    return data > 0;
  }

  // Each reading thread has one; what the file says of itself is parsed once.
  std::unique_ptr<parquet::arrow::FileReader> open(bool columns_at_once,
                                                   const std::vector<int>& coded) const {
    parquet::arrow::FileReaderBuilder builder;
    parquet::ReaderProperties properties = parquet::default_reader_properties();
    properties.set_page_checksum_verification(true);  // of files that have checksums
    properties.enable_buffered_stream();              // pages, not whole columns, are in memory
    properties.set_buffer_size(int64_t{1} << 20);
    const arrow::Status opened =
        builder.Open(std::make_shared<CallerFile>(bytes_, read_), properties, metadata_);
    if (!opened.ok()) fail(true, opened.message());
    parquet::ArrowReaderProperties arrow_properties;
    arrow_properties.set_pre_buffer(false);
    arrow_properties.set_use_threads(columns_at_once);
    for (const int leaf : coded) arrow_properties.set_read_dictionary(leaf, true);
    builder.properties(arrow_properties);
    return value_or_fail(builder.Build(), true);
  }

  const uint64_t bytes_;
  const furrow::data::ReadAt read_;
  std::shared_ptr<parquet::FileMetaData> metadata_;
  std::vector<std::string> names_;
  std::vector<int> leaves_;
  std::vector<int64_t> group_rows_;
};

class CodecExpander : public Expander {
 public:
  explicit CodecExpander(arrow::Compression::type type)
      : codec_(value_or_fail(arrow::util::Codec::Create(type), false)) {
    expander_ = value_or_fail(codec_->MakeDecompressor(), false);
  }
  bool expand(std::span<const std::byte>& in, std::span<std::byte>& out, TableFailure* failure) override {
    return guarded(failure, [&] {
      const auto done = value_or_fail(
          expander_->Decompress(static_cast<int64_t>(in.size()), reinterpret_cast<const uint8_t*>(in.data()),
                                static_cast<int64_t>(out.size()), reinterpret_cast<uint8_t*>(out.data())),
          true);
      in = in.subspan(static_cast<size_t>(done.bytes_read));
      out = out.subspan(static_cast<size_t>(done.bytes_written));
      return expander_->IsFinished();
    });
  }
  void begin_frame(TableFailure* failure) override {
    guarded(failure, [&] {
      const arrow::Status reset = expander_->Reset();
      if (!reset.ok()) fail(true, reset.message());
    });
  }

 private:
  std::unique_ptr<arrow::util::Codec> codec_;
  std::shared_ptr<arrow::util::Decompressor> expander_;
};

std::unique_ptr<Expander> open_codec(const std::string& codec, TableFailure* failure) {
  return guarded(failure, [&]() -> std::unique_ptr<Expander> {
    const auto type = value_or_fail(arrow::util::Codec::GetCompressionType(codec), false);
    if (!arrow::util::Codec::IsAvailable(type))
      fail(false, "this Arrow was built without " + codec + ": decompress the file");
    return std::make_unique<CodecExpander>(type);
  });
}

void parse_csv_rows(const CsvRows& rows, TableContents* contents, TableFailure* failure) {
  guarded(failure, [&] { *contents = csv_contents(rows); });
}

std::unique_ptr<ParquetReader> open_parquet_file(uint64_t bytes, furrow::data::ReadAt read,
                                                 const std::vector<std::string>& ignored,
                                                 TableFailure* failure) {
  return guarded(failure, [&]() -> std::unique_ptr<ParquetReader> {
    return std::make_unique<Reader>(bytes, std::move(read), ignored);
  });
}

constexpr TableFunctions kFunctions{kTableFunctionsVersion, &parse_csv_rows, &open_parquet_file, &open_codec};

}  // namespace
}  // namespace furrow::data

extern "C" __attribute__((visibility("default"))) const furrow::data::TableFunctions*
furrow_table_functions() {
  return &furrow::data::kFunctions;
}
