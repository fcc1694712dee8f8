// The first byte picks the format ('c' CSV, else Parquet).  Any bytes behind it are a table or are refused
// with one error; a table that fits encodes its own rows.
#include <numeric>

#include "furrow/base/error.h"
#include "furrow/data/table.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace furrow;
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    const data::TableContents table = data::parse_table(bytes, data[0] != 'c', {});
    for (const data::TableColumn& column : table.columns) {
      FURROW_CHECK(column.valid.size() == static_cast<size_t>(table.rows), "a column of another length");
      FURROW_CHECK((column.is_text ? column.ends.size() : column.numbers.size()) == column.valid.size(),
                   "values");
    }
    if (table.rows == 0 || table.columns.empty()) return 0;
    const data::TableRules rules{.target = table.columns.back().name};
    std::vector<uint32_t> all(static_cast<size_t>(table.rows));
    std::iota(all.begin(), all.end(), 0u);
    const auto encoder = std::make_shared<const preprocess::TableEncoder>(data::fit_table(table, rules, all));
    const auto encoded = std::make_shared<const data::EncodedTable>(table, rules, encoder);
    FURROW_CHECK(data::TableSource(encoded, {}).size() == table.rows, "rows");
    preprocess::load(encoder->state());
  } catch (const Error& error) {
    FURROW_CHECK(error.code() == ErrorCode::kDataLoss || error.code() == ErrorCode::kInvalidArgument,
                 "an error of another code");
  }
  return 0;
}
