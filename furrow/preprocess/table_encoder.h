// Rows of a table to the numbers that a network reads: standardised numbers, one input per category, missing
// values, and the target; fitted on training data.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/base/exact_sum.h"
#include "furrow/preprocess/preprocessor.h"

namespace furrow::preprocess {

// One column of the input.
struct TableFeature {
  std::string name;
  bool is_number = true;
  bool is_date = false;  // a number too: days since 1970-01-01 (data/text_shape.h)
  // Numbers: (x - mean) / std, 0 where missing; a second input is 1 there if `indicator`.
  double mean = 0, std = 1;
  bool indicator = false;
  // Categories, strictly ascending: an input each, 1 where the value is it.  "" stands for a missing value.
  std::vector<std::string> values = {};

  int64_t width() const;  // inputs that it becomes
  friend bool operator==(const TableFeature&, const TableFeature&) = default;
};

struct TableTarget {
  std::string name;
  bool is_number = false;
  double mean = 0, std = 1;              // numbers: the network learns (y - mean) / std
  std::vector<std::string> labels = {};  // classes, strictly ascending

  friend bool operator==(const TableTarget&, const TableTarget&) = default;
};

// Mean and standard deviation (of the population) of what is not NaN; std 1 where all are equal or there is
// none.  Sums are exact (base/exact_sum.h): the order of the values changes nothing.
struct Moments {
  double mean = 0, std = 1;
};
Moments moments_of(std::span<const double> values);

// The same of values that come in parts, twice: first for their mean, then for their deviation from it.
class MeanFit {
 public:
  void add(std::span<const double> values);
  void add(const MeanFit& other);
  double mean() const;  // 0 of none
  bool any_missing() const { return missing_; }

 private:
  ExactSum sum_;
  int64_t count_ = 0;
  bool missing_ = false;
};

class DeviationFit {
 public:
  explicit DeviationFit(double mean) : mean_(mean) {}
  void add(std::span<const double> values);
  void add(const DeviationFit& other);  // REQUIRES: of one mean
  Moments moments() const;

 private:
  double mean_;
  ExactSum squares_;
  int64_t count_ = 0;
};

class TableEncoder : public Preprocessor {
 public:
  // A row in its compact form has one cell per feature: the bits of a standardised float, NaN where missing;
  // or the number of a category.
  using Cell = uint32_t;
  static constexpr Cell kUnseen = 0xFFFFFFFFu;  // a category that training did not have: no input is 1

  // REQUIRES: at least one feature, finite numbers, std > 0, ascending names of categories and labels.
  TableEncoder(std::vector<TableFeature> features, TableTarget target);
  // State: "feature.0000" and so on, "target"; lines of text, see state() in table_encoder.cc.
  static std::unique_ptr<Preprocessor> load(const State& state);
  State state() const override;

  const std::vector<TableFeature>& features() const { return features_; }
  const TableTarget& target() const { return target_; }
  int64_t width() const { return width_; }  // inputs of a row
  int64_t outputs() const;                  // classes; 1 for a number

  Cell number_cell(size_t feature, double value) const;  // NaN: missing
  // Empty when training did not have it.
  std::optional<Cell> category_cell(size_t feature, std::string_view value) const;
  std::optional<int64_t> label_of(std::string_view value) const;
  float number_target(double value) const;

  // One row.  REQUIRES: a cell per feature, width() floats.
  void expand(std::span<const Cell> cells, std::span<float> out) const;

 private:
  std::vector<TableFeature> features_;
  TableTarget target_;
  int64_t width_ = 0;
};

}  // namespace furrow::preprocess
