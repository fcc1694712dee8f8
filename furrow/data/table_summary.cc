#include "furrow/data/table_summary.h"

namespace furrow::data {

void ColumnSummary::add_text(std::string_view text, size_t most) {
  if (texts.contains(text)) return;
  if (texts.size() < most) {
    texts.emplace(text);
  } else {
    more_texts = true;
  }
}

void ColumnSummary::take_other(const RowOfBlock& row, std::string_view text) {
  if (first_other && *first_other <= row) return;
  first_other = row;
  other_text = text;
}

void ColumnSummary::take_missing(const RowOfBlock& row) {
  if (!first_missing || row < *first_missing) first_missing = row;
}

void ColumnSummary::add(const BlockPlace& place, const BlockColumn& column, size_t most) {
  numbers += column.numbers;
  typed = typed || column.typed;
  const auto at = [&](uint32_t row) { return RowOfBlock{place.file, place.begin, row}; };
  if (column.first_missing != BlockColumn::kNone) take_missing(at(column.first_missing));
  if (!column.has_codes() && column.numbers > 0) more_texts = true;
  for (size_t i = 0; i < column.values.size(); ++i) {
    const BlockValue& value = column.values[i];
    add_text(column.text(i), most);
    if (value.kind != BlockValue::kOther) continue;
    others += value.count;
    take_other(at(value.first_row), column.text(i));
  }
}

void ColumnSummary::add(const ColumnSummary& other, size_t most) {
  numbers += other.numbers;
  others += other.others;
  typed = typed || other.typed;
  more_texts = more_texts || other.more_texts;
  if (other.first_other) take_other(*other.first_other, other.other_text);
  if (other.first_missing) take_missing(*other.first_missing);
  for (const std::string& text : other.texts) add_text(text, most);
}

}  // namespace furrow::data
