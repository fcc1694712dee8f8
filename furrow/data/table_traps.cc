#include "furrow/data/table_traps.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/log.h"
#include "furrow/base/text.h"
#include "furrow/data/text_shape.h"

namespace furrow::data {
namespace {

// Fewer values say nothing about a column.
constexpr size_t kLeastToTell = 20;
constexpr double kNearlyAll = 0.9;

bool listed(const std::vector<std::string>& names, std::string_view name) {
  return std::ranges::find(names, name) != names.end();
}

[[noreturn]] void refuse(const TableRead& table, const std::string& message) {
  throw Error(ErrorCode::kInvalidArgument, message).with_context(table.files[0]);
}

// What nearly all texts that are no numbers look like, and one of them.
struct Looks {
  TextShape shape = TextShape::kOther;
  std::string example{};
};
Looks looks_of(const ColumnSummary& summary, char decimal) {
  constexpr auto kShapes = static_cast<size_t>(TextShape::kUnit) + 1;
  std::array<size_t, kShapes> counts{};
  std::array<std::string, kShapes> examples;
  size_t texts = 0;
  for (const std::string& text : summary.texts) {
    double number = 0;
    if (text.empty() || finite_number(text, decimal, number)) continue;
    const auto shape = static_cast<size_t>(shape_of(text, decimal));
    if (++counts[shape] == 1) examples[shape] = text;
    ++texts;
  }
  const auto at = [](TextShape shape) { return static_cast<size_t>(shape); };
  // "1,234" among "3,14" has decimals, among "1,234,567" thousands.
  const bool decimals = counts[at(TextShape::kDecimals)] >= counts[at(TextShape::kGroups)];
  const auto either = at(decimals ? TextShape::kDecimals : TextShape::kGroups);
  if (counts[either] > 0) counts[either] += std::exchange(counts[at(TextShape::kEither)], 0);
  for (size_t shape = 1; shape < kShapes; ++shape) {
    if (texts > 0 && static_cast<double>(counts[shape]) >= kNearlyAll * static_cast<double>(texts))
      return {static_cast<TextShape>(shape), examples[shape]};
  }
  return {};
}

void check_looks(const TableRead& table, size_t c, const TableRules& rules, const std::string& what) {
  const ColumnSummary& summary = table.summaries[c];
  if (summary.others == 0 || summary.typed) return;
  const auto [shape, example] = looks_of(summary, rules.decimal);
  if (shape == TextShape::kOther) return;
  refuse(table, fmt::format("{} has values such as '{}', which is {}; if they are categories, list it in "
                            "data.categorical_columns",
                            what, example, remedy_of(shape, rules.decimal)));
}

size_t different_texts(const ColumnSummary& summary) {
  return summary.texts.size() - (summary.texts.contains("") ? 1 : 0);
}

bool nearly_every(double different, uint64_t rows) {
  return rows >= kLeastToTell && different >= kNearlyAll * static_cast<double>(rows);
}

void check_different_texts(const TableRead& table, const ColumnSummary& summary, const std::string& what) {
  const size_t different = different_texts(summary);
  if (summary.others == 0 || summary.more_texts || nearly_all_numbers(summary) ||
      !nearly_every(static_cast<double>(different), summary.numbers + summary.others))
    return;
  refuse(table, fmt::format("{} has {} different texts in {} rows, as names and ids have: list it in "
                            "data.ignore_columns, or in data.categorical_columns if they are categories",
                            what, different, summary.numbers + summary.others));
}

// Texts of a small table are counted, numbers of a large one estimated.
bool whole_and_different(const ColumnSummary& summary, char decimal) {
  if (summary.others > 0 || summary.dated || !summary.whole.all_whole()) return false;
  if (summary.more_texts || summary.texts.empty() || summary.typed)
    return nearly_every(summary.whole.different(), summary.numbers);
  const auto is_whole = [&](const std::string& text) {
    double number = 0;
    return text.empty() || (finite_number(text, decimal, number) && std::trunc(number) == number);
  };
  return nearly_every(static_cast<double>(different_texts(summary)), summary.numbers) &&
         std::ranges::all_of(summary.texts, is_whole);
}

}  // namespace

bool nearly_all_numbers(const ColumnSummary& summary) {
  return summary.numbers >= 9 * summary.others || (summary.others == 1 && summary.numbers >= 4);
}

void check_traps(const TableRead& table, size_t c, const TableRules& rules) {
  const std::string& name = table.columns[c];
  const ColumnSummary& summary = table.summaries[c];
  const std::string what = fmt::format("column '{}'", name);
  if (listed(rules.categorical, name) || listed(rules.numeric, name) || listed(rules.dates, name)) return;
  if (summary.numbers == 0 && summary.others == 0)
    refuse(table, what + " has no value in any row: list it in data.ignore_columns");
  check_looks(table, c, rules, what);
  check_different_texts(table, summary, what);
  if (!whole_and_different(summary, rules.decimal)) return;
  log_warning(
      fmt::format("{}: {} has another whole number in nearly every row, as numbers of rows and ids have, and "
                  "is an input: "
                  "list it in data.ignore_columns, or in data.numeric_columns if it is a quantity",
                  table.files[0], what));
}

void check_target_traps(const TableRead& table, size_t c, const TableRules& rules) {
  if (listed(rules.categorical, rules.target)) return;
  check_looks(table, c, rules, fmt::format("the target '{}'", rules.target));
}

}  // namespace furrow::data
