// The first byte picks the format ('c' CSV, else Parquet).  Any bytes behind it are a table or are refused
// with one error; CSV has the same rows however it is cut into parts; a table that fits encodes its own rows.
#include <algorithm>
#include <cstring>
#include <optional>
#include <set>

#include "furrow/base/error.h"
#include "furrow/data/csv_rows.h"
#include "furrow/data/dataset.h"
#include "furrow/data/parallel_source.h"
#include "furrow/data/table.h"
#include "furrow/data/table_fit.h"

namespace {

using namespace furrow;
using namespace furrow::data;

TableContents all_of(const TableContents& a, const TableContents& b) {
  TableContents all = a;
  all.rows += b.rows;
  for (size_t c = 0; c < all.columns.size(); ++c) {
    for (size_t row = 0; row < b.columns[c].size(); ++row) {
      all.columns[c].text += b.columns[c].text_of(row);
      all.columns[c].ends.push_back(static_cast<uint32_t>(all.columns[c].text.size()));
    }
  }
  return all;
}

std::optional<TableContents> parsed(std::string_view rows, const std::vector<std::string>& names) {
  const std::vector<uint8_t> wanted(names.size(), 1);
  BadRow bad;
  if (rows.find_first_not_of("\r\n") == rows.npos) {
    TableContents none;
    for (const std::string& name : names) {
      none.columns.emplace_back();
      none.columns.back().name = name;
      none.columns.back().is_text = true;
    }
    return none;
  }
  try {
    TableContents contents = parse_csv({rows, ',', names, wanted}, &bad);
    for (const TableColumn& column : contents.columns)
      FURROW_CHECK(column.size() == static_cast<size_t>(contents.rows), "a column of another length");
    return contents;
  } catch (const Error& error) {
    FURROW_CHECK(error.code() == ErrorCode::kInvalidArgument, "an error of another code");
    return std::nullopt;
  }
}

// Wherever the text is cut at the end of a row, its rows are the same.
void check_cuts(std::string_view rows, const std::vector<std::string>& names, const TableContents& whole) {
  for (const size_t part : {rows.size() / 3, rows.size() / 2, rows.size() - 1}) {
    const size_t cut = whole_rows(rows.substr(0, part), ',');
    FURROW_CHECK(cut <= part, "a cut outside of the text");
    if (cut == 0) continue;
    const auto front = parsed(rows.substr(0, cut), names), back = parsed(rows.substr(cut), names);
    FURROW_CHECK(front && back, "a part of a table that is none");
    const TableContents both = all_of(*front, *back);
    FURROW_CHECK(both.rows == whole.rows, "other rows");
    for (size_t c = 0; c < names.size(); ++c) {
      FURROW_CHECK(
          both.columns[c].text == whole.columns[c].text && both.columns[c].ends == whole.columns[c].ends,
          "other values");
    }
  }
}

TableContents csv_of(std::string_view bytes) {
  const size_t line = first_row(bytes, ',');
  std::string_view header = bytes.substr(0, line == 0 ? bytes.size() : line);
  const std::string_view rows = bytes.substr(header.size());
  header = header.substr(0, header.find_last_not_of("\r\n") + 1);
  const std::vector<std::string> names = names_of_line(header, ',');
  const auto contents = parsed(rows, names);
  if (!contents) throw Error(ErrorCode::kInvalidArgument, "no table");
  if (!rows.empty()) check_cuts(rows, names, *contents);
  return *contents;
}

// Of the first row group.
TableContents parquet_of(std::string_view bytes) {
  const auto read = [bytes](uint64_t offset, std::span<std::byte> out) {
    const std::string_view part = bytes.substr(std::min<uint64_t>(offset, bytes.size()), out.size());
    std::memcpy(out.data(), part.data(), part.size());
    return part.size();
  };
  const auto file = open_parquet(bytes.size(), read, {});
  TableContents contents;
  if (file->group_rows().empty()) return contents;
  file->read(0, 1 << 16, false, [&](TableContents& some) {
    contents = std::move(some);
    return false;
  });
  return contents;
}

void check_encoding(const TableContents& contents) {
  TableRead read;
  std::vector<ColumnUse> uses(contents.columns.size(), ColumnUse::kAuto);
  uses.back() = ColumnUse::kCategory;
  const TableRules rules{.target = contents.columns.back().name};
  int64_t bad_row = -1;
  const std::vector<std::byte> bytes = make_block(contents, uses, rules, &bad_row);
  const BlockPlace place{0, 0, 1, contents.rows};
  read.files = {"fuzz.csv"};
  read.summaries.resize(uses.size());
  read.store = std::make_unique<TableStore>(uint64_t{1} << 20);
  read.store->add(place, bytes);
  for (size_t c = 0; c < uses.size(); ++c) {
    read.columns.push_back(contents.columns[c].name);
    read.summaries[c].add(place, Block(bytes).columns()[c], ColumnSummary::kMostCounted);
  }
  read.store->seal();
  ReaderPool pool(1);
  const RowSet all = RowSet::all(contents.rows);
  const auto encoder =
      std::make_shared<const preprocess::TableEncoder>(fit_table(read, rules, all, pool, WhileOpening()));
  FittedTable table(std::move(read), rules, encoder);
  const RowSet none;
  const auto memory = encode_rows(table, {&all, &none, &none}, /*shared=*/false, pool);
  FURROW_CHECK(TableSource(std::make_shared<EncodedRows>(memory, 0, encoder)).size() == contents.rows,
               "rows");
  preprocess::load(encoder->state());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    const TableContents contents = data[0] == 'c' ? csv_of(bytes) : parquet_of(bytes);
    std::set<std::string> names;
    for (const TableColumn& column : contents.columns) names.insert(column.name);
    const bool fits = names.size() > 1 && names.size() == contents.columns.size();
    if (contents.rows > 0 && fits) check_encoding(contents);
  } catch (const Error& error) {
    FURROW_CHECK(error.code() == ErrorCode::kDataLoss || error.code() == ErrorCode::kInvalidArgument,
                 "an error of another code");
  }
  return 0;
}
