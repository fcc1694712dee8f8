// A table in memory, one 4-byte cell per column, and sources over parts of its rows.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "furrow/base/memory.h"
#include "furrow/data/source.h"
#include "furrow/data/table_file.h"
#include "furrow/preprocess/table_encoder.h"

namespace furrow::data {

// How columns are to be read: [data] of the configuration.
struct TableRules {
  std::string target = {};                    // a column
  bool number_target = false;                 // it is a number, else a class
  std::vector<std::string> categorical = {};  // columns of categories, whatever their values look like
  std::vector<std::string> numeric = {};      // columns of numbers, whatever their values look like
  std::vector<std::string> missing = {""};    // values that stand for none
  std::string trim = " \t";                   // characters cut off both ends of text
  bool ignore_unseen = false;                 // a category that training did not have is no error
};

// One column as numbers or as text, cleaned as the rules say.
class TableValues {
 public:
  TableValues(const TableColumn& column, const TableRules& rules) : column_(column), rules_(rules) {}
  bool missing(size_t row) const;
  std::string text(size_t row) const;            // "" where missing
  bool number(size_t row, double& value) const;  // NaN where missing; false: no number
  size_t size() const { return column_.valid.size(); }
  const std::string& name() const { return column_.name; }

 private:
  std::string_view trimmed(size_t row) const;
  const TableColumn& column_;
  const TableRules& rules_;
};

// What the columns of the training file are, fitted on the rows `train` of it (names of categories and labels
// on all of its rows).  Error{invalid_argument} names the column and the row (from 1): no such column, a text
// among numbers, more than 1,000 categories in a column that is not listed as categorical, a missing target.
preprocess::TableEncoder fit_table(const TableContents& table, const TableRules& rules,
                                   std::span<const uint32_t> train);

// Rows in their compact form.  Immutable; thread safe.
class EncodedTable {
 public:
  // Error{invalid_argument} names the column and the row: a column that is not there, text in a number, an
  // unseen category or label.
  EncodedTable(const TableContents& table, const TableRules& rules,
               std::shared_ptr<const preprocess::TableEncoder> encoder);

  int64_t size() const { return rows_; }
  const preprocess::TableEncoder& encoder() const { return *encoder_; }
  std::span<const preprocess::TableEncoder::Cell> cells(size_t row) const;
  int64_t label(size_t row) const { return labels_[row]; }  // of a class
  float number(size_t row) const { return numbers_[row]; }  // of a number

 private:
  std::shared_ptr<const preprocess::TableEncoder> encoder_;
  int64_t rows_ = 0;
  CountedBuffer cells_;
  std::vector<int32_t> labels_;
  std::vector<float> numbers_;
};

// "input" f32 [inputs]; "target" i64 [] for classes, f32 [1] for a number.
std::vector<Field> table_fields(const preprocess::TableEncoder& encoder);

class TableSource : public Source {
 public:
  // `subset` maps samples to rows; empty: all of them in order.
  TableSource(std::shared_ptr<const EncodedTable> table, std::vector<uint32_t> subset);

  int64_t size() const override {
    return subset_.empty() ? table_->size() : static_cast<int64_t>(subset_.size());
  }
  const std::vector<Field>& fields() const override { return fields_; }
  int64_t classes() const override { return table_->encoder().outputs(); }
  void read(std::span<const int64_t> indices, std::span<const ArrayView> fields) const override;

 private:
  std::shared_ptr<const EncodedTable> table_;
  std::vector<uint32_t> subset_;
  std::vector<Field> fields_;
};

}  // namespace furrow::data
