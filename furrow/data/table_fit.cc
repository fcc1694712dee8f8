#include "furrow/data/table_fit.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <mutex>
#include <numeric>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/text.h"
#include "furrow/data/dataset.h"
#include "furrow/data/opening.h"
#include "furrow/data/parallel_source.h"
#include "furrow/data/table.h"

namespace furrow::data {
namespace {

using preprocess::DeviationFit;
using preprocess::MeanFit;
using preprocess::Moments;
using preprocess::TableEncoder;
using preprocess::TableFeature;
using preprocess::TableTarget;

bool listed(const std::vector<std::string>& names, std::string_view name) {
  return std::ranges::find(names, name) != names.end();
}

// Goes over all blocks side by side, and tells how far it is.
class Passes {
 public:
  Passes(const TableStore& store, ReaderPool& pool, const WhileOpening& opening)
      : store_(store), pool_(pool), opening_(opening) {}

  // A result of each stretch of blocks: work(block's number, block, result).
  template <class Result, class Work>
  std::vector<Result> over_blocks(const Result& begin, const Work& work) {
    done_ = 0;
    const size_t pieces = std::min(store_.blocks(), static_cast<size_t>(pool_.readers()) * 4);
    std::vector<Result> results(pieces, begin);
    pool_.run(pieces, [&](size_t piece) {
      const size_t end = store_.blocks() * (piece + 1) / pieces;
      for (size_t i = store_.blocks() * piece / pieces; i < end; ++i) {
        const auto held = store_.load(i);
        work(i, held->block(), results[piece]);
        advance(store_.place(i).rows);
      }
    });
    return results;
  }

 private:
  void advance(int64_t rows) {
    check_cancelled(opening_, "the table was fitted", opening_.spool);
    const std::lock_guard lock(mutex_);
    done_ += static_cast<double>(rows);
    if (!opening_.progress) return;
    const double share = done_ / static_cast<double>(store_.rows());
    opening_.progress(static_cast<uint64_t>(share * static_cast<double>(store_.bytes())), store_.bytes());
  }

  const TableStore& store_;
  ReaderPool& pool_;
  const WhileOpening& opening_;
  std::mutex mutex_;
  double done_ = 0;  // rows
};

// The rows of a block that are in the set.
std::vector<uint32_t> rows_in(const RowSet& set, int64_t first, size_t rows) {
  std::vector<uint32_t> in;
  in.reserve(rows);
  for (size_t row = 0; row < rows; ++row) {
    if (set.contains(first + static_cast<int64_t>(row))) in.push_back(static_cast<uint32_t>(row));
  }
  return in;
}

std::vector<double> numbers_of(const BlockColumn& column, std::span<const uint32_t> rows) {
  std::vector<double> numbers;
  numbers.reserve(rows.size());
  if (!column.has_codes()) {
    for (const uint32_t row : rows) numbers.push_back(column.number(row));
    return numbers;
  }
  const std::vector<double> of_values = value_numbers(column);
  for (const uint32_t row : rows) numbers.push_back(of_values[column.code(row)]);
  return numbers;
}

void check_finite(const TableRead& table, size_t column, double fitted) {
  if (std::isfinite(fitted)) return;
  throw Error(
      ErrorCode::kInvalidArgument,
      fmt::format("column '{}' has numbers so large that their mean or deviation is none: write it in "
                  "larger units, or list it in data.ignore_columns",
                  table.columns[column]))
      .with_context(table.files[0]);
}

// Of some columns.
struct Fitted {
  Moments moments;
  bool any_missing = false;
};
std::vector<Fitted> fit_numbers(Passes& passes, const TableRead& table, const RowSet& train,
                                const std::vector<size_t>& columns) {
  if (columns.empty()) return {};
  const auto each = [&](size_t i, const Block& block, auto& results) {
    const std::vector<uint32_t> rows = rows_in(train, table.store->first_row(i), block.rows());
    for (size_t c = 0; c < columns.size(); ++c) results[c].add(numbers_of(block.columns()[columns[c]], rows));
  };
  const auto merged = [](auto parts) {
    for (size_t part = 1; part < parts.size(); ++part) {
      for (size_t c = 0; c < parts[0].size(); ++c) parts[0][c].add(parts[part][c]);
    }
    return std::move(parts[0]);
  };
  const auto means = merged(passes.over_blocks(std::vector<MeanFit>(columns.size()), each));
  std::vector<DeviationFit> begin;
  for (const MeanFit& mean : means) begin.emplace_back(mean.mean());
  for (size_t c = 0; c < columns.size(); ++c) check_finite(table, columns[c], means[c].mean());
  const auto deviations = merged(passes.over_blocks(begin, each));
  std::vector<Fitted> fitted;
  for (size_t c = 0; c < columns.size(); ++c) check_finite(table, columns[c], deviations[c].moments().std);
  for (size_t c = 0; c < columns.size(); ++c)
    fitted.push_back({deviations[c].moments(), means[c].any_missing()});
  return fitted;
}

std::string count_of(const ColumnSummary& summary) {
  const size_t counted = summary.texts.size();
  if (!summary.more_texts) return fmt::format("{}", counted);
  return fmt::format("over {}", format_count(static_cast<int64_t>(std::max(counted, kMostCategories))));
}

// Does the column hold numbers?  When nearly all of its values are, the rest is taken for a mistake.
bool holds_numbers(const TableRead& table, size_t c, const TableRules& rules) {
  const std::string& name = table.columns[c];
  const ColumnSummary& summary = table.summaries[c];
  if (listed(rules.categorical, name)) return false;
  const bool number = summary.typed || listed(rules.numeric, name);
  const bool nearly_all =
      summary.numbers >= 9 * summary.others || (summary.others == 1 && summary.numbers >= 4);
  if (summary.others > 0 && (number || nearly_all))
    table.throw_at(*summary.first_other, name, no_number_message(summary.other_text));
  return number || (summary.numbers > 0 && summary.others == 0);
}

TableFeature feature_of(const TableRead& table, size_t c, const TableRules& rules) {
  const std::string& name = table.columns[c];
  const ColumnSummary& summary = table.summaries[c];
  TableFeature feature{.name = name, .is_number = holds_numbers(table, c, rules)};
  if (feature.is_number) return feature;
  if ((summary.more_texts || summary.texts.size() > kMostCategories) && !listed(rules.categorical, name)) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("column '{}' has {} different texts: list it in data.categorical_columns if they "
                            "are categories, else in data.ignore_columns",
                            name, count_of(summary)))
        .with_context(table.files[0]);
  }
  feature.values.assign(summary.texts.begin(), summary.texts.end());
  return feature;
}

TableTarget target_of(const TableRead& table, size_t c, const TableRules& rules) {
  const ColumnSummary& summary = table.summaries[c];
  TableTarget target{.name = rules.target, .is_number = rules.number_target};
  if (summary.first_missing) table.throw_at(*summary.first_missing, target.name, kNoTarget);
  if (target.is_number) {
    if (summary.first_other)
      table.throw_at(*summary.first_other, target.name, no_number_target_message(summary.other_text));
    return target;
  }
  if (summary.more_texts || summary.texts.size() > kMostCategories) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("the target '{}' has {} different values: for a number, set training.loss = \"mse\"",
                    target.name, count_of(summary)))
        .with_context(table.files[0]);
  }
  target.labels.assign(summary.texts.begin(), summary.texts.end());
  return target;
}

}  // namespace

TableEncoder fit_table(const TableRead& table, const TableRules& rules, const RowSet& train, ReaderPool& pool,
                       const WhileOpening& opening) {
  std::vector<TableFeature> features;
  TableTarget target;
  std::vector<size_t> numbers;  // columns
  size_t target_column = 0;
  for (size_t c = 0; c < table.columns.size(); ++c) {
    if (table.columns[c] == rules.target) {
      target_column = c;
      continue;
    }
    features.push_back(feature_of(table, c, rules));
    if (features.back().is_number) numbers.push_back(c);
  }
  target = target_of(table, target_column, rules);
  if (target.is_number) numbers.push_back(target_column);
  Passes passes(*table.store, pool, opening);
  const std::vector<Fitted> fitted = fit_numbers(passes, table, train, numbers);
  size_t next = 0;
  for (TableFeature& feature : features) {
    if (!feature.is_number) continue;
    const Fitted& of = fitted[next++];
    feature.mean = of.moments.mean;
    feature.std = of.moments.std;
    feature.indicator = of.any_missing;
  }
  if (target.is_number) {
    target.mean = fitted[next].moments.mean;
    target.std = fitted[next].moments.std;
  }
  return TableEncoder(std::move(features), std::move(target));
}

}  // namespace furrow::data
