#include "furrow/data/table_summary.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace furrow::data {

// The finaliser of MurmurHash3: every bit of the number changes every bit of what comes out.
void WholeNumbers::add(int64_t number) {
  auto hash = static_cast<uint64_t>(number);
  hash = (hash ^ hash >> 33) * 0xff51afd7ed558ccdULL;
  hash = (hash ^ hash >> 33) * 0xc4ceb9fe1a85ec53ULL;
  hash ^= hash >> 33;
  uint8_t& most = most_zeros_[hash >> (64 - kBits)];
  most = std::max(most, static_cast<uint8_t>(1 + std::countl_zero(hash << kBits | 1)));
}

void WholeNumbers::add(const BlockColumn& column, size_t rows) {
  if (!whole_) return;
  if (most_zeros_.empty()) most_zeros_.resize(size_t{1} << kBits);
  column.visit_numbers(rows, [this](auto numbers) {
    for (const double number : numbers) {
      if (std::isnan(number)) continue;
      whole_ = std::fabs(number) < 0x1p62 && std::trunc(number) == number;
      if (!whole_) return;
      add(static_cast<int64_t>(number));
    }
  });
}

void WholeNumbers::add(const WholeNumbers& other) {
  whole_ = whole_ && other.whole_;
  if (most_zeros_.empty()) most_zeros_.resize(other.most_zeros_.size());
  for (size_t i = 0; i < other.most_zeros_.size(); ++i)
    most_zeros_[i] = std::max(most_zeros_[i], other.most_zeros_[i]);
}

double WholeNumbers::different() const {
  if (most_zeros_.empty()) return 0;
  const auto registers = static_cast<double>(most_zeros_.size());
  const auto untouched = static_cast<double>(std::ranges::count(most_zeros_, 0));
  double sum = 0;
  for (const uint8_t most : most_zeros_) sum += std::ldexp(1.0, -most);
  const double estimate = 0.7213 / (1 + 1.079 / registers) * registers * registers / sum;
  // Few numbers are counted by the registers that they leave alone.
  return estimate <= 2.5 * registers && untouched > 0 ? registers * std::log(registers / untouched)
                                                      : estimate;
}

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
  dated = dated || column.dated;
  if (!column.has_codes()) whole.add(column, static_cast<size_t>(place.rows));
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
  dated = dated || other.dated;
  whole.add(other.whole);
  more_texts = more_texts || other.more_texts;
  if (other.first_other) take_other(*other.first_other, other.other_text);
  if (other.first_missing) take_missing(*other.first_missing);
  for (const std::string& text : other.texts) add_text(text, most);
}

}  // namespace furrow::data
