// Rows of a table in the compact form that a network's input is expanded from, and the source over them.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "furrow/data/row_set.h"
#include "furrow/data/shared_rows.h"
#include "furrow/data/source.h"
#include "furrow/data/table_reader.h"
#include "furrow/preprocess/table_encoder.h"

namespace furrow::data {

class ReaderPool;

// What is wrong with a value, behind its column and row.
inline constexpr const char* kNoTarget = "the target is missing: remove the row";
std::string no_number_message(const std::string& text, char decimal);
std::string no_number_target_message(const std::string& text, char decimal);
std::string no_date_message(const std::string& text);

// The numbers of a column's different values; NaN: none.  REQUIRES: column.has_codes().
std::vector<double> value_numbers(const BlockColumn& column, char decimal);

// The cells of a block: for each feature as TableEncoder has them, then the target: the bits of a label
// (i32), or of a number (f32).
class BlockCells;

// A table and what was fitted on it, or on another one.  Thread safe.
class FittedTable {
 public:
  FittedTable(TableRead table, TableRules rules, std::shared_ptr<const preprocess::TableEncoder> encoder);

  const std::shared_ptr<const preprocess::TableEncoder>& encoder() const { return encoder_; }
  const TableStore& store() const { return *table_.store; }
  // Error{invalid_argument} names file, column and row, the first of several: text in a number, an unseen
  // category or label, a missing target.  None where the encoder was fitted on this table.
  std::shared_ptr<const BlockCells> read_cells(size_t block) const;
  std::shared_ptr<const BlockCells> cells(size_t block) const;  // the same; the last few are kept
  void check(ReaderPool& pool) const;                           // of all blocks
  void drop(size_t block) { table_.store->drop(block); }

 private:
  TableRead table_;
  TableRules rules_;
  std::shared_ptr<const preprocess::TableEncoder> encoder_;
  std::vector<size_t> columns_;  // of the blocks: of each feature, then of the target
  mutable std::mutex mutex_;
  mutable std::list<std::pair<size_t, std::shared_ptr<const BlockCells>>> recent_;
};

// Rows of one split, from 0.  Immutable; thread safe.
class TableRows {
 public:
  using Cells = std::span<const preprocess::TableEncoder::Cell>;
  virtual ~TableRows() = default;
  virtual int64_t size() const = 0;
  virtual const preprocess::TableEncoder& encoder() const = 0;
  // The cells of each of `rows`, with its place among them; they are valid during the call.
  virtual void visit(std::span<const int64_t> rows,
                     const std::function<void(size_t at, Cells cells)>& take) const = 0;
};

// Rows of a split in memory, one 4-byte cell per column.
class EncodedRows : public TableRows {
 public:
  EncodedRows(std::shared_ptr<RowMemory> memory, size_t split,
              std::shared_ptr<const preprocess::TableEncoder> encoder);
  int64_t size() const override { return memory_->rows(split_); }
  const preprocess::TableEncoder& encoder() const override { return *encoder_; }
  void visit(std::span<const int64_t> rows, const std::function<void(size_t, Cells)>& take) const override;
  std::span<preprocess::TableEncoder::Cell> row(int64_t row);  // to be filled

 private:
  std::shared_ptr<RowMemory> memory_;
  size_t split_;
  std::shared_ptr<const preprocess::TableEncoder> encoder_;
  size_t width_;  // cells of a row
  preprocess::TableEncoder::Cell* cells_;
};
size_t cells_of_row(const preprocess::TableEncoder& encoder);  // those of the features, and the target's

// All rows of `table` that are in one of the sets, in memory that may be `shared`; its blocks are dropped on
// the way.  Errors as read_cells.
std::shared_ptr<RowMemory> encode_rows(FittedTable& table, const std::array<const RowSet*, 3>& sets,
                                       bool shared, ReaderPool& pool);

// Rows where they lie, in blocks: as few in memory as are read.
class StoredRows : public TableRows {
 public:
  StoredRows(std::shared_ptr<const FittedTable> table, RowSet rows)
      : table_(std::move(table)), rows_(std::move(rows)) {}
  int64_t size() const override { return rows_.size(); }
  const preprocess::TableEncoder& encoder() const override { return *table_->encoder(); }
  void visit(std::span<const int64_t> rows, const std::function<void(size_t, Cells)>& take) const override;

 private:
  std::shared_ptr<const FittedTable> table_;
  RowSet rows_;
};

// "input" f32 [inputs]; "target" i64 [] for classes, f32 [1] for a number.
std::vector<Field> table_fields(const preprocess::TableEncoder& encoder);

class TableSource : public Source {
 public:
  explicit TableSource(std::shared_ptr<const TableRows> rows);
  int64_t size() const override { return rows_->size(); }
  const std::vector<Field>& fields() const override { return fields_; }
  int64_t classes() const override { return rows_->encoder().outputs(); }
  void read(std::span<const int64_t> indices, std::span<const ArrayView> fields) const override;

 private:
  std::shared_ptr<const TableRows> rows_;
  std::vector<Field> fields_;
};

}  // namespace furrow::data
