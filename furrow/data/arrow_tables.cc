// libfurrow_tables.so: CSV and Parquet through Arrow.  Self-contained: only the structs of table_file.h cross
// its border.
#include <arrow/api.h>
#include <arrow/csv/api.h>
#include <arrow/io/memory.h>
#include <parquet/arrow/reader.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <memory>
#include <set>
#include <utility>

#include "furrow/data/table_file.h"

namespace furrow::data {
namespace {

// Ends a parse; does not leave this file.
struct Failure {
  bool damaged;
  std::string message;
};

template <class T>
T value_or_fail(arrow::Result<T> result, bool damaged) {
  if (!result.ok()) throw Failure{damaged, result.status().message()};
  return std::move(result).ValueUnsafe();
}

// The cells of the first line, RFC 4180: "a ""quoted"" cell", others as they are.
std::vector<std::string> header_of(std::string_view line, char delimiter) {
  std::vector<std::string> cells(1);
  bool quoted = false;
  for (size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (quoted && c == '"' && i + 1 < line.size() && line[i + 1] == '"') {
      cells.back() += '"';
      ++i;
    } else if (c == '"') {
      quoted = !quoted;
    } else if (c == delimiter && !quoted) {
      cells.emplace_back();
    } else {
      cells.back() += c;
    }
  }
  return cells;
}

void append_text(TableColumn& column, std::string_view text) {
  column.text += text;
  column.ends.push_back(column.text.size());
}

template <class ArrayType>
void append_numbers(const arrow::Array& chunk, TableColumn& column) {
  const auto& array = static_cast<const ArrayType&>(chunk);
  for (int64_t i = 0; i < array.length(); ++i) {
    column.numbers.push_back(array.IsNull(i) ? std::nan("") : static_cast<double>(array.Value(i)));
  }
}

template <class ArrayType>
void append_strings(const arrow::Array& chunk, TableColumn& column) {
  const auto& array = static_cast<const ArrayType&>(chunk);
  for (int64_t i = 0; i < array.length(); ++i) append_text(column, array.IsNull(i) ? "" : array.GetView(i));
}

using Append = void (*)(const arrow::Array&, TableColumn&);

Append append_function(arrow::Type::type type, bool& is_text) {
  is_text = false;
  switch (type) {
    case arrow::Type::BOOL:
      return &append_numbers<arrow::BooleanArray>;
    case arrow::Type::INT8:
      return &append_numbers<arrow::Int8Array>;
    case arrow::Type::INT16:
      return &append_numbers<arrow::Int16Array>;
    case arrow::Type::INT32:
      return &append_numbers<arrow::Int32Array>;
    case arrow::Type::INT64:
      return &append_numbers<arrow::Int64Array>;
    case arrow::Type::UINT8:
      return &append_numbers<arrow::UInt8Array>;
    case arrow::Type::UINT16:
      return &append_numbers<arrow::UInt16Array>;
    case arrow::Type::UINT32:
      return &append_numbers<arrow::UInt32Array>;
    case arrow::Type::UINT64:
      return &append_numbers<arrow::UInt64Array>;
    case arrow::Type::FLOAT:
      return &append_numbers<arrow::FloatArray>;
    case arrow::Type::DOUBLE:
      return &append_numbers<arrow::DoubleArray>;
    default:
      break;
  }
  is_text = true;
  if (type == arrow::Type::STRING) return &append_strings<arrow::StringArray>;
  if (type == arrow::Type::LARGE_STRING) return &append_strings<arrow::LargeStringArray>;
  return nullptr;
}

void append_dictionary(const arrow::Array& chunk, TableColumn& column) {
  const auto& array = static_cast<const arrow::DictionaryArray&>(chunk);
  if (array.dictionary()->type_id() != arrow::Type::STRING) {
    throw Failure{false, "column '" + column.name + "' is a dictionary of other values than text"};
  }
  const auto& values = static_cast<const arrow::StringArray&>(*array.dictionary());
  for (int64_t i = 0; i < array.length(); ++i) {
    append_text(column, array.IsNull(i) ? "" : values.GetView(array.GetValueIndex(i)));
  }
}

TableColumn column_of(const std::string& name, const arrow::ChunkedArray& chunks) {
  TableColumn column;
  column.name = name;
  const auto type = chunks.type()->id();
  const bool dictionary = type == arrow::Type::DICTIONARY;
  const Append append = dictionary ? &append_dictionary : append_function(type, column.is_text);
  if (append == nullptr) {
    throw Failure{false,
                  "column '" + name + "' has values of type " + chunks.type()->ToString() +
                      ": numbers, booleans and text can be read, list the others in data.ignore_columns"};
  }
  column.is_text = column.is_text || dictionary;
  for (const auto& chunk : chunks.chunks()) {
    append(*chunk, column);
    for (int64_t i = 0; i < chunk->length(); ++i) column.valid.push_back(chunk->IsValid(i));
  }
  return column;
}

TableContents contents_of(const arrow::Table& table, const std::vector<std::string>& ignored) {
  TableContents contents;
  contents.rows = table.num_rows();
  std::set<std::string> names;
  for (int c = 0; c < table.num_columns(); ++c) {
    const std::string& name = table.field(c)->name();
    if (!names.insert(name).second) throw Failure{false, "two columns are named '" + name + "'"};
    if (std::find(ignored.begin(), ignored.end(), name) != ignored.end()) {
      contents.left_out.push_back(name);
      continue;
    }
    contents.columns.push_back(column_of(name, *table.column(c)));
  }
  return contents;
}

TableContents parse_csv(std::string_view bytes, const TableFormat& format) {
  if (bytes.starts_with("\xEF\xBB\xBF")) bytes.remove_prefix(3);  // a byte order mark
  auto read = arrow::csv::ReadOptions::Defaults();
  read.use_threads = false;  // so that errors number their rows
  read.column_names = format.names;
  if (read.column_names.empty()) {
    std::string_view line = bytes.substr(0, bytes.find('\n'));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) throw Failure{false, "there is no first line with the names of the columns"};
    read.column_names = header_of(line, format.delimiter);
    bytes.remove_prefix(
        std::min(bytes.size(), bytes.find('\n') == bytes.npos ? bytes.size() : bytes.find('\n') + 1));
  }
  if (bytes.find_first_not_of("\r\n") == bytes.npos) return {};  // no rows
  std::set<std::string> names(read.column_names.begin(), read.column_names.end());
  if (names.size() != read.column_names.size()) throw Failure{false, "two columns have the same name"};
  auto parse = arrow::csv::ParseOptions::Defaults();
  parse.delimiter = format.delimiter;
  parse.newlines_in_values = true;
  auto convert = arrow::csv::ConvertOptions::Defaults();
  for (const std::string& name : read.column_names) convert.column_types[name] = arrow::utf8();
  convert.strings_can_be_null = false;
  const auto input = std::make_shared<arrow::io::BufferReader>(
      std::make_shared<arrow::Buffer>(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()));
  const auto reader = value_or_fail(
      arrow::csv::TableReader::Make(arrow::io::default_io_context(), input, read, parse, convert), false);
  return contents_of(*value_or_fail(reader->Read(), false), format.ignored);
}

TableContents parse_parquet(std::string_view bytes, const TableFormat& format) {
  const auto input = std::make_shared<arrow::io::BufferReader>(
      std::make_shared<arrow::Buffer>(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()));
  parquet::arrow::FileReaderBuilder builder;
  parquet::ReaderProperties properties = parquet::default_reader_properties();
  properties.set_page_checksum_verification(true);  // of files that have checksums
  const arrow::Status opened = builder.Open(input, properties);
  if (!opened.ok()) throw Failure{true, opened.message()};
  std::unique_ptr<parquet::arrow::FileReader> reader;
  const arrow::Status built = builder.Build(&reader);
  if (!built.ok()) throw Failure{true, built.message()};
  reader->set_use_threads(false);
  const std::shared_ptr<arrow::Table> table = value_or_fail(reader->ReadTable(), true);
  const arrow::Status valid = table->ValidateFull();
  if (!valid.ok()) throw Failure{true, valid.message()};
  return contents_of(*table, format.ignored);
}

}  // namespace
}  // namespace furrow::data

extern "C" __attribute__((visibility("default"))) void furrow_parse_table(
    std::string_view bytes, bool parquet, const furrow::data::TableFormat& format,
    furrow::data::TableOutcome* outcome) {
  using furrow::data::Failure;
  try {
    outcome->contents =
        parquet ? furrow::data::parse_parquet(bytes, format) : furrow::data::parse_csv(bytes, format);
  } catch (const Failure& failure) {
    outcome->failed = true;
    outcome->damaged = failure.damaged;
    outcome->message = failure.message;
  } catch (const std::exception& error) {  // Parquet throws on some damage
    outcome->failed = outcome->damaged = true;
    outcome->message = error.what();
  }
}
