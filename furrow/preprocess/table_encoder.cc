#include "furrow/preprocess/table_encoder.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <utility>

#include "furrow/base/text.h"

namespace furrow::preprocess {
namespace {

[[noreturn]] void damaged(const std::string& key, const char* why) {
  throw Error(ErrorCode::kDataLoss,
              fmt::format("fitted preprocessing: '{}' {}: save the model again", key, why));
}

// "number", "date" or another word, the name, then numbers in one line or values.
std::string number_text(const char* word, const std::string& name, double mean, double std, bool indicator) {
  return fmt::format("{}\n{}\n{} {} {}", word, to_line(name), mean, std, indicator ? 1 : 0);
}

std::string values_text(const char* word, const std::string& name, const std::vector<std::string>& values) {
  std::string text = fmt::format("{}\n{}", word, to_line(name));
  for (const std::string& value : values) text.append("\n").append(to_line(value));
  return text;
}

struct Parsed {
  std::string word, name;
  double mean = 0, std = 1;
  bool indicator = false;
  std::vector<std::string> values;
};

Parsed parse(const State& state, const std::string& key) {
  const std::vector<std::string> lines = split(state_value(state, key), '\n');
  if (lines.size() < 2) damaged(key, "is too short");
  Parsed parsed{.word = lines[0], .name = from_line(lines[1], key), .values = {}};
  if (parsed.word == "number" || parsed.word == "date") {
    if (lines.size() != 3) damaged(key, "has no mean and deviation");
    const std::vector<double> numbers = state_numbers({{key, lines[2]}}, key);
    if (numbers.size() != 3 || !(numbers[1] > 0)) damaged(key, "has no mean and deviation");
    parsed.mean = numbers[0];
    parsed.std = numbers[1];
    parsed.indicator = numbers[2] != 0;
    return parsed;
  }
  for (size_t i = 2; i < lines.size(); ++i) parsed.values.push_back(from_line(lines[i], key));
  const auto out_of_order = std::ranges::adjacent_find(parsed.values, std::greater_equal<>());
  if (out_of_order != parsed.values.end()) damaged(key, "is not ascending");
  return parsed;
}

std::string feature_key(size_t feature) { return fmt::format("feature.{:04}", feature); }

std::optional<uint32_t> find(const std::vector<std::string>& values, std::string_view value) {
  const auto found = std::lower_bound(values.begin(), values.end(), value);
  if (found == values.end() || *found != value) return std::nullopt;
  return static_cast<uint32_t>(found - values.begin());
}

}  // namespace

int64_t TableFeature::width() const {
  return is_number ? 1 + int64_t{indicator} : static_cast<int64_t>(values.size());
}

void MeanFit::add(std::span<const double> values) {
  for (const double value : values) {
    if (std::isnan(value)) {
      missing_ = true;
      continue;
    }
    sum_.add(value);
    ++count_;
  }
}

void MeanFit::add(const MeanFit& other) {
  sum_.add(other.sum_);
  count_ += other.count_;
  missing_ = missing_ || other.missing_;
}

double MeanFit::mean() const { return count_ == 0 ? 0 : sum_.value() / static_cast<double>(count_); }

void DeviationFit::add(std::span<const double> values) {
  for (const double value : values) {
    if (std::isnan(value)) continue;
    squares_.add((value - mean_) * (value - mean_));
    ++count_;
  }
}

void DeviationFit::add(const DeviationFit& other) {
  squares_.add(other.squares_);
  count_ += other.count_;
}

Moments DeviationFit::moments() const {
  Moments moments{.mean = mean_};
  if (count_ == 0) return moments;
  const double std = std::sqrt(squares_.value() / static_cast<double>(count_));
  if (std > 0) moments.std = std;
  return moments;
}

Moments moments_of(std::span<const double> values) {
  MeanFit mean;
  mean.add(values);
  DeviationFit deviation(mean.mean());
  deviation.add(values);
  return deviation.moments();
}

TableEncoder::TableEncoder(std::vector<TableFeature> features, TableTarget target)
    : features_(std::move(features)), target_(std::move(target)) {
  FURROW_CHECK(!features_.empty(), "a table without features");
  for (const TableFeature& feature : features_) {
    FURROW_CHECK(feature.is_number || !feature.is_date, feature.name);
    FURROW_CHECK(std::isfinite(feature.mean) && std::isfinite(feature.std) && feature.std > 0, feature.name);
    FURROW_CHECK(std::ranges::adjacent_find(feature.values, std::greater_equal<>()) == feature.values.end(),
                 feature.name);
    width_ += feature.width();
  }
  FURROW_CHECK(target_.is_number ? target_.std > 0 : !target_.labels.empty(), "a target without values");
}

std::unique_ptr<Preprocessor> TableEncoder::load(const State& state) {
  std::vector<TableFeature> features;
  for (size_t i = 0; state.contains(feature_key(i)); ++i) {
    Parsed parsed = parse(state, feature_key(i));
    if (parsed.word != "number" && parsed.word != "date" && parsed.word != "category")
      damaged(feature_key(i), "is of no known kind");
    features.push_back({.name = std::move(parsed.name),
                        .is_number = parsed.word != "category",
                        .is_date = parsed.word == "date",
                        .mean = parsed.mean,
                        .std = parsed.std,
                        .indicator = parsed.indicator,
                        .values = std::move(parsed.values)});
  }
  if (features.empty()) damaged(feature_key(0), "is missing");
  Parsed parsed = parse(state, "target");
  if (parsed.word != "number" && parsed.word != "class") damaged("target", "is of no known kind");
  if (parsed.word == "class" && parsed.values.empty()) damaged("target", "has no classes");
  return std::make_unique<TableEncoder>(std::move(features), TableTarget{.name = std::move(parsed.name),
                                                                         .is_number = parsed.word == "number",
                                                                         .mean = parsed.mean,
                                                                         .std = parsed.std,
                                                                         .labels = std::move(parsed.values)});
}

State TableEncoder::state() const {
  State state{{"kind", "table"}};
  for (size_t i = 0; i < features_.size(); ++i) {
    const TableFeature& f = features_[i];
    const char* const word = f.is_date ? "date" : "number";
    state[feature_key(i)] = f.is_number ? number_text(word, f.name, f.mean, f.std, f.indicator)
                                        : values_text("category", f.name, f.values);
  }
  state["target"] = target_.is_number ? number_text("number", target_.name, target_.mean, target_.std, false)
                                      : values_text("class", target_.name, target_.labels);
  return state;
}

int64_t TableEncoder::outputs() const {
  return target_.is_number ? 1 : static_cast<int64_t>(target_.labels.size());
}

TableEncoder::Cell TableEncoder::number_cell(size_t feature, double value) const {
  const TableFeature& f = features_[feature];
  return std::bit_cast<Cell>(static_cast<float>((value - f.mean) / f.std));
}

std::optional<TableEncoder::Cell> TableEncoder::category_cell(size_t feature, std::string_view value) const {
  return find(features_[feature].values, value);
}

std::optional<int64_t> TableEncoder::label_of(std::string_view value) const {
  return find(target_.labels, value);
}

float TableEncoder::number_target(double value) const {
  return static_cast<float>((value - target_.mean) / target_.std);
}

void TableEncoder::expand(std::span<const Cell> cells, std::span<float> out) const {
  FURROW_CHECK(cells.size() == features_.size() && out.size() == static_cast<size_t>(width_), "another row");
  std::fill(out.begin(), out.end(), 0.0f);
  float* to = out.data();
  for (size_t i = 0; i < cells.size(); ++i) {
    const TableFeature& feature = features_[i];
    if (feature.is_number) {
      const auto value = std::bit_cast<float>(cells[i]);
      const bool missing = std::isnan(value);
      to[0] = missing ? 0.0f : value;
      if (feature.indicator) to[1] = missing ? 1.0f : 0.0f;
    } else if (cells[i] != kUnseen) {
      to[cells[i]] = 1.0f;
    }
    to += feature.width();
  }
}

}  // namespace furrow::preprocess
