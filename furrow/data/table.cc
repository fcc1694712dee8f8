#include "furrow/data/table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/names.h"
#include "furrow/base/text.h"

namespace furrow::data {
namespace {

using preprocess::TableEncoder;
using preprocess::TableFeature;
using preprocess::TableTarget;

constexpr size_t kMostCategories = 1000;

[[noreturn]] void invalid(const std::string& message) { throw Error(ErrorCode::kInvalidArgument, message); }

bool listed(const std::vector<std::string>& names, std::string_view name) {
  return std::ranges::find(names, name) != names.end();
}

const TableColumn& column_named(const TableContents& table, const std::string& name, const char* what) {
  std::vector<std::string> known;
  for (const TableColumn& column : table.columns) {
    if (column.name == name) return column;
    known.push_back(column.name);
  }
  invalid(unknown_name_message(what, name, known));
}

void check_listed(const TableContents& table, const std::vector<std::string>& names, const char* key) {
  for (const std::string& name : names) column_named(table, name, key);
}

[[noreturn]] void no_number(const TableValues& values, size_t row) {
  invalid(fmt::format(
      "column '{}', row {}: '{}' is no number: correct it, add it to data.missing_values, or list "
      "the column in data.categorical_columns",
      values.name(), row + 1, values.text(row)));
}

// Does the column hold numbers?  When nearly all of its values are, the rest is taken for a mistake.
bool holds_numbers(const TableColumn& column, const TableRules& rules) {
  if (listed(rules.categorical, column.name)) return false;
  if (!column.is_text || listed(rules.numeric, column.name)) return true;
  const TableValues values(column, rules);
  size_t numbers = 0, others = 0, first_other = 0;
  for (size_t row = 0; row < values.size(); ++row) {
    double ignored = 0;
    if (values.missing(row)) continue;
    if (values.number(row, ignored)) {
      ++numbers;
    } else if (others++ == 0) {
      first_other = row;
    }
  }
  const bool nearly_all = numbers >= 9 * others || (others == 1 && numbers >= 4);
  if (others > 0 && nearly_all) no_number(values, first_other);
  return numbers > 0 && others == 0;
}

std::vector<std::string> distinct(const TableValues& values) {
  std::set<std::string> seen;
  for (size_t row = 0; row < values.size(); ++row) seen.insert(values.text(row));
  return {seen.begin(), seen.end()};
}

TableFeature fit_feature(const TableColumn& column, const TableRules& rules,
                         std::span<const uint32_t> train) {
  const TableValues values(column, rules);
  TableFeature feature{.name = column.name, .is_number = holds_numbers(column, rules)};
  if (!feature.is_number) {
    feature.values = distinct(values);
    if (feature.values.size() > kMostCategories && !listed(rules.categorical, column.name)) {
      invalid(
          fmt::format("column '{}' has {} different texts: list it in data.categorical_columns if they are "
                      "categories, else in data.ignore_columns",
                      column.name, feature.values.size()));
    }
    return feature;
  }
  std::vector<double> numbers(train.size());
  for (size_t i = 0; i < train.size(); ++i) {
    if (!values.number(train[i], numbers[i])) no_number(values, train[i]);
    feature.indicator = feature.indicator || std::isnan(numbers[i]);
  }
  const preprocess::Moments moments = preprocess::moments_of(numbers);
  feature.mean = moments.mean;
  feature.std = moments.std;
  return feature;
}

[[noreturn]] void no_number_target(const TableValues& values, size_t row) {
  invalid(
      fmt::format("column '{}', row {}: '{}' is no number, and training.loss = mse predicts numbers: correct "
                  "it, or set training.loss = cross_entropy to predict classes",
                  values.name(), row + 1, values.text(row)));
}

[[noreturn]] void no_target(const std::string& name, size_t row) {
  invalid(fmt::format("column '{}', row {}: the target is missing: remove the row", name, row + 1));
}

TableTarget fit_target(const TableColumn& column, const TableRules& rules, std::span<const uint32_t> train) {
  const TableValues values(column, rules);
  TableTarget target{.name = column.name, .is_number = rules.number_target};
  for (size_t row = 0; row < values.size(); ++row) {
    if (values.missing(row)) no_target(column.name, row);
  }
  if (!target.is_number) {
    target.labels = distinct(values);
    if (target.labels.size() > kMostCategories) {
      invalid(
          fmt::format("the target '{}' has {} different values: for a number, set training.loss = \"mse\"",
                      column.name, target.labels.size()));
    }
    return target;
  }
  std::vector<double> numbers(train.size());
  for (size_t i = 0; i < train.size(); ++i) {
    if (!values.number(train[i], numbers[i])) no_number_target(values, train[i]);
  }
  const preprocess::Moments moments = preprocess::moments_of(numbers);
  target.mean = moments.mean;
  target.std = moments.std;
  return target;
}

// The first few, for a message.
std::string some_of(const std::vector<std::string>& values) {
  constexpr size_t kShown = 8;
  const std::vector<std::string> first(values.begin(), values.begin() + std::min(values.size(), kShown));
  return join(first, ", ") + (values.size() > kShown ? ", ..." : "");
}

TableEncoder::Cell category_cell(const TableEncoder& encoder, size_t feature, const TableValues& values,
                                 size_t row, const TableRules& rules) {
  const std::string text = values.text(row);
  if (const auto cell = encoder.category_cell(feature, text)) return *cell;
  if (rules.ignore_unseen) return TableEncoder::kUnseen;
  invalid(
      fmt::format("column '{}', row {}: {} was not in the training data, which has {}: correct it, or set "
                  "data.unseen_category = \"ignore\"",
                  values.name(), row + 1, text.empty() ? "a missing value" : "category '" + text + "'",
                  some_of(encoder.features()[feature].values)));
}

}  // namespace

std::string_view TableValues::trimmed(size_t row) const {
  const std::string_view all = column_.text_of(row);
  const size_t begin = all.find_first_not_of(rules_.trim);
  if (begin == all.npos) return {};
  return all.substr(begin, all.find_last_not_of(rules_.trim) - begin + 1);
}

bool TableValues::missing(size_t row) const {
  if (column_.valid[row] == 0) return true;
  if (!column_.is_text) return std::isnan(column_.numbers[row]);
  const std::string_view value = trimmed(row);
  return value.empty() || listed(rules_.missing, value);
}

std::string TableValues::text(size_t row) const {
  if (missing(row)) return {};
  return column_.is_text ? std::string(trimmed(row)) : format_double(column_.numbers[row]);
}

bool TableValues::number(size_t row, double& value) const {
  value = std::nan("");
  if (missing(row)) return true;
  if (!column_.is_text) {
    value = column_.numbers[row];
    return std::isfinite(value);
  }
  return parse_double(trimmed(row), value) && std::isfinite(value);
}

TableEncoder fit_table(const TableContents& table, const TableRules& rules, std::span<const uint32_t> train) {
  if (rules.target.empty()) invalid("data.target is empty: name the column to predict");
  const TableColumn& target = column_named(table, rules.target, "column in data.target");
  check_listed(table, rules.categorical, "column in data.categorical_columns");
  check_listed(table, rules.numeric, "column in data.numeric_columns");
  std::vector<TableFeature> features;
  for (const TableColumn& column : table.columns) {
    if (&column != &target) features.push_back(fit_feature(column, rules, train));
  }
  if (features.empty()) invalid(fmt::format("there is no column besides the target '{}'", rules.target));
  return TableEncoder(std::move(features), fit_target(target, rules, train));
}

EncodedTable::EncodedTable(const TableContents& table, const TableRules& rules,
                           std::shared_ptr<const TableEncoder> encoder)
    : encoder_(std::move(encoder)), rows_(table.rows) {
  const std::vector<TableFeature>& features = encoder_->features();
  const auto rows = static_cast<size_t>(rows_);
  cells_ = CountedBuffer(rows * features.size() * sizeof(TableEncoder::Cell), MemoryKind::kData);
  auto* const cells = reinterpret_cast<TableEncoder::Cell*>(cells_.data());
  for (size_t f = 0; f < features.size(); ++f) {
    const TableValues values(column_named(table, features[f].name, "column"), rules);
    for (size_t row = 0; row < rows; ++row) {
      double number = 0;
      if (features[f].is_number && !values.number(row, number)) no_number(values, row);
      cells[row * features.size() + f] = features[f].is_number
                                             ? encoder_->number_cell(f, number)
                                             : category_cell(*encoder_, f, values, row, rules);
    }
  }
  const TableTarget& target = encoder_->target();
  const TableValues values(column_named(table, target.name, "column"), rules);
  for (size_t row = 0; row < rows; ++row) {
    if (values.missing(row)) no_target(target.name, row);
    if (target.is_number) {
      double number = 0;
      if (!values.number(row, number)) no_number_target(values, row);
      numbers_.push_back(encoder_->number_target(number));
      continue;
    }
    const auto label = encoder_->label_of(values.text(row));
    if (!label) {
      invalid(fmt::format("column '{}', row {}: class '{}' was not in the training data, which has {}",
                          target.name, row + 1, values.text(row), some_of(target.labels)));
    }
    labels_.push_back(static_cast<int32_t>(*label));
  }
}

std::span<const TableEncoder::Cell> EncodedTable::cells(size_t row) const {
  const size_t width = encoder_->features().size();
  return {reinterpret_cast<const TableEncoder::Cell*>(cells_.data()) + row * width, width};
}

std::vector<Field> table_fields(const TableEncoder& encoder) {
  const Field input{"input", DType::kF32, {encoder.width()}};
  if (encoder.target().is_number) return {input, {"target", DType::kF32, {1}}};
  return {input, {"target", DType::kI64, {}}};
}

TableSource::TableSource(std::shared_ptr<const EncodedTable> table, std::vector<uint32_t> subset)
    : table_(std::move(table)), subset_(std::move(subset)), fields_(table_fields(table_->encoder())) {}

void TableSource::read(std::span<const int64_t> indices, std::span<const ArrayView> fields) const {
  check_read(*this, indices, fields);
  const TableEncoder& encoder = table_->encoder();
  const auto width = static_cast<size_t>(encoder.width());
  for (size_t row = 0; row < indices.size(); ++row) {
    const auto at = static_cast<size_t>(indices[row]);
    const size_t from = subset_.empty() ? at : subset_[at];
    encoder.expand(table_->cells(from), fields[0].as<float>().subspan(row * width, width));
    if (encoder.target().is_number) {
      fields[1].as<float>()[row] = table_->number(from);
    } else {
      fields[1].as<int64_t>()[row] = table_->label(from);
    }
  }
}

}  // namespace furrow::data
