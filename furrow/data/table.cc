#include "furrow/data/table.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "furrow/base/error.h"
#include "furrow/base/names.h"
#include "furrow/base/text.h"
#include "furrow/data/parallel_source.h"
#include "furrow/data/text_shape.h"

namespace furrow::data {
namespace {

using preprocess::TableEncoder;
using Cell = TableEncoder::Cell;

// Blocks whose cells are kept: a few for each thread that reads rows in order.
constexpr size_t kRecentBlocks = 16;

// The first few, for a message.
std::string some_of(const std::vector<std::string>& values) {
  constexpr size_t kShown = 8;
  const std::vector<std::string> first(values.begin(), values.begin() + std::min(values.size(), kShown));
  return join(first, ", ") + (values.size() > kShown ? ", ..." : "");
}

// A value that cannot be encoded.
struct Refused {
  uint32_t row;  // of the block
  std::string message;
};

Cell target_cell(float number) { return std::bit_cast<Cell>(number); }
Cell target_cell(int64_t label) { return static_cast<Cell>(label); }

// One column of a block as cells.
class CellColumn {
 public:
  CellColumn(const BlockColumn& column, const TableEncoder& encoder, size_t feature, const TableRules& rules)
      : column_(column),
        encoder_(encoder),
        rules_(rules),
        feature_(feature),
        is_target_(feature == encoder.features().size()) {
    if (is_target_ && column.first_missing != BlockColumn::kNone)
      throw Refused{column.first_missing, kNoTarget};
    if (!column.has_codes()) {
      FURROW_CHECK(is_number(), "numbers of a column of categories");
      if (!column.values.empty()) throw no_number(0);
      return;
    }
    const std::vector<double> numbers =
        is_number() ? value_numbers(column, rules.decimal) : std::vector<double>();
    for (size_t i = 0; i < column.values.size(); ++i) {
      if (is_number() && column.values[i].kind == BlockValue::kOther) throw no_number(i);
      cells_.push_back(is_number() ? number_cell(numbers[i]) : category_cell(i));
    }
  }

  // The cells of some rows of the block, each `stride` behind the one before.
  void put(size_t block_rows, std::span<const uint32_t> rows, Cell* out, size_t stride) const {
    const auto each = [&](const auto& cell_of) {
      for (size_t i = 0; i < rows.size(); ++i) out[i * stride] = cell_of(rows[i]);
    };
    if (column_.has_codes()) {
      column_.visit_codes(block_rows,
                          [&](auto codes) { each([&](uint32_t row) { return cells_[codes[row]]; }); });
    } else {
      column_.visit_numbers(
          block_rows, [&](auto numbers) { each([&](uint32_t row) { return number_cell(numbers[row]); }); });
    }
  }

  Cell cell(size_t row) const {
    return column_.has_codes() ? cells_[column_.code(row)] : number_cell(column_.number(row));
  }

 private:
  bool is_number() const {
    return is_target_ ? encoder_.target().is_number : encoder_.features()[feature_].is_number;
  }
  Cell number_cell(double value) const {
    return is_target_ ? target_cell(encoder_.number_target(value)) : encoder_.number_cell(feature_, value);
  }
  Refused no_number(size_t value) const {
    const std::string text(column_.text(value));
    const uint32_t row = column_.values[value].first_row;
    if (is_target_) return {row, no_number_target_message(text, rules_.decimal)};
    if (encoder_.features()[feature_].is_date) return {row, no_date_message(text)};
    return {row, no_number_message(text, rules_.decimal)};
  }

  Cell category_cell(size_t value) const {
    const std::string_view text = column_.text(value);
    const uint32_t row = column_.values[value].first_row;
    if (is_target_) {
      if (const auto label = encoder_.label_of(text)) return target_cell(*label);
      throw Refused{row, fmt::format("class '{}' was not in the training data, which has {}", text,
                                     some_of(encoder_.target().labels))};
    }
    if (const auto cell = encoder_.category_cell(feature_, text)) return *cell;
    if (rules_.ignore_unseen) return TableEncoder::kUnseen;
    throw Refused{row, fmt::format("{} was not in the training data, which has {}: correct it, or set "
                                   "data.unseen_category = \"ignore\"",
                                   text.empty() ? "a missing value" : fmt::format("category '{}'", text),
                                   some_of(encoder_.features()[feature_].values))};
  }

  BlockColumn column_;
  const TableEncoder& encoder_;
  const TableRules& rules_;
  size_t feature_;
  bool is_target_;
  std::vector<Cell> cells_;  // by code
};

}  // namespace

std::string no_number_message(const std::string& text, char decimal) {
  const std::string remedy = remedy_of(shape_of(text, decimal), decimal);
  if (!remedy.empty()) {
    return fmt::format(
        "'{}' looks like {}, or list the column in data.categorical_columns or data.ignore_columns", text,
        remedy);
  }
  return fmt::format(
      "'{}' is no number: correct it, add it to data.missing_values, or list the column in "
      "data.categorical_columns",
      text);
}

std::string no_number_target_message(const std::string& text, char decimal) {
  const TextShape shape = shape_of(text, decimal);
  const bool date =
      shape == TextShape::kDate || shape == TextShape::kLocalDate;  // which no list makes a target
  const std::string remedy = date ? "" : remedy_of(shape, decimal);
  if (!remedy.empty()) return fmt::format("'{}' looks like {}", text, remedy);
  return fmt::format(
      "'{}' is no number, and training.loss = mse predicts numbers: correct it, or set training.loss = "
      "cross_entropy to predict classes",
      text);
}

std::string no_date_message(const std::string& text) {
  return fmt::format(
      "'{}' is no date: write it as 2024-12-31 or 2024-12-31T23:59:59Z, add it to data.missing_values, or "
      "take the column out of data.date_columns",
      text);
}

std::vector<double> value_numbers(const BlockColumn& column, char decimal) {
  std::vector<double> numbers(column.values.size(), std::nan(""));
  for (size_t i = 0; i < numbers.size(); ++i) {
    if (column.values[i].kind == BlockValue::kNumber) finite_number(column.text(i), decimal, numbers[i]);
  }
  return numbers;
}

class BlockCells {
 public:
  BlockCells(std::shared_ptr<const HeldBlock> held, std::vector<CellColumn> columns)
      : held_(std::move(held)), columns_(std::move(columns)) {}
  size_t rows() const { return held_->block().rows(); }
  void row(size_t row, std::span<Cell> cells) const {
    for (size_t c = 0; c < columns_.size(); ++c) cells[c] = columns_[c].cell(row);
  }
  // Some rows, one behind the other; so many at a time that they stay in a core's cache from column to
  // column.
  void put(std::span<const uint32_t> rows, Cell* out) const {
    constexpr size_t kAtOnce = 512;
    const size_t width = columns_.size();
    for (size_t first = 0; first < rows.size(); first += kAtOnce) {
      const auto some = rows.subspan(first, std::min(kAtOnce, rows.size() - first));
      for (size_t c = 0; c < width; ++c) columns_[c].put(this->rows(), some, out + first * width + c, width);
    }
  }

 private:
  std::shared_ptr<const HeldBlock> held_;
  std::vector<CellColumn> columns_;
};

FittedTable::FittedTable(TableRead table, TableRules rules, std::shared_ptr<const TableEncoder> encoder)
    : table_(std::move(table)), rules_(std::move(rules)), encoder_(std::move(encoder)) {
  const auto column = [&](const std::string& name) {
    const auto found = std::ranges::find(table_.columns, name);
    FURROW_CHECK(found != table_.columns.end(), "a column that was not read");
    columns_.push_back(static_cast<size_t>(found - table_.columns.begin()));
  };
  for (const preprocess::TableFeature& feature : encoder_->features()) column(feature.name);
  column(encoder_->target().name);
}

void FittedTable::check(ReaderPool& pool) const {
  pool.run(store().blocks(), [&](size_t block) { read_cells(block); });
}

std::shared_ptr<const BlockCells> FittedTable::read_cells(size_t block) const {
  auto held = store().load(block);
  std::vector<CellColumn> columns;
  for (size_t feature = 0; feature < columns_.size(); ++feature) {
    const size_t c = columns_[feature];
    try {
      columns.emplace_back(held->block().columns()[c], *encoder_, feature, rules_);
    } catch (const Refused& refused) {
      const BlockPlace& place = store().place(block);
      table_.throw_at({place.file, place.begin, refused.row}, table_.columns[c], refused.message);
    }
  }
  return std::make_shared<const BlockCells>(std::move(held), std::move(columns));
}

std::shared_ptr<const BlockCells> FittedTable::cells(size_t block) const {
  const auto find = [&]() -> std::shared_ptr<const BlockCells> {
    const auto found = std::ranges::find(recent_, block, [](const auto& entry) { return entry.first; });
    if (found == recent_.end()) return nullptr;
    recent_.splice(recent_.begin(), recent_, found);
    return found->second;
  };
  {
    const std::lock_guard lock(mutex_);
    if (auto kept = find()) return kept;
  }
  auto read = read_cells(block);
  const std::lock_guard lock(mutex_);
  if (auto kept = find()) return kept;
  recent_.emplace_front(block, read);
  if (recent_.size() > kRecentBlocks) recent_.pop_back();
  return read;
}

size_t cells_of_row(const TableEncoder& encoder) { return encoder.features().size() + 1; }

EncodedRows::EncodedRows(std::shared_ptr<RowMemory> memory, size_t split,
                         std::shared_ptr<const TableEncoder> encoder)
    : memory_(std::move(memory)),
      split_(split),
      encoder_(std::move(encoder)),
      width_(cells_of_row(*encoder_)),
      cells_(reinterpret_cast<Cell*>(memory_->split(split).data())) {}

std::span<Cell> EncodedRows::row(int64_t row) { return {cells_ + static_cast<size_t>(row) * width_, width_}; }

void EncodedRows::visit(std::span<const int64_t> rows, const std::function<void(size_t, Cells)>& take) const {
  for (size_t i = 0; i < rows.size(); ++i) take(i, {cells_ + static_cast<size_t>(rows[i]) * width_, width_});
}

std::shared_ptr<RowMemory> encode_rows(FittedTable& table, const std::array<const RowSet*, 3>& sets,
                                       bool shared, ReaderPool& pool) {
  const auto memory = RowMemory::make({sets[0]->size(), sets[1]->size(), sets[2]->size()},
                                      cells_of_row(*table.encoder()), shared);
  std::vector<EncodedRows> encoded;
  for (size_t split = 0; split < sets.size(); ++split) encoded.emplace_back(memory, split, table.encoder());
  pool.run(table.store().blocks(), [&](size_t block) {
    const auto cells = table.read_cells(block);
    const int64_t first = table.store().first_row(block);
    for (size_t s = 0; s < sets.size(); ++s) {
      const std::vector<uint32_t> rows = sets[s]->of_block(first, cells->rows());
      if (!rows.empty()) cells->put(rows, encoded[s].row(sets[s]->before(first)).data());
    }
    table.drop(block);
  });
  return memory;
}

void StoredRows::visit(std::span<const int64_t> rows, const std::function<void(size_t, Cells)>& take) const {
  std::vector<Cell> cells(cells_of_row(encoder()));
  std::shared_ptr<const BlockCells> block;
  int64_t begin = 0, end = 0;  // rows of that block
  for (size_t i = 0; i < rows.size(); ++i) {
    const int64_t row = rows_.row(rows[i]);
    if (row < begin || row >= end) {
      const size_t number = table_->store().block_of(row);
      block = table_->cells(number);
      begin = table_->store().first_row(number);
      end = begin + static_cast<int64_t>(block->rows());
    }
    block->row(static_cast<size_t>(row - begin), cells);
    take(i, cells);
  }
}

std::vector<Field> table_fields(const TableEncoder& encoder) {
  const Field input{"input", DType::kF32, {encoder.width()}};
  if (encoder.target().is_number) return {input, {"target", DType::kF32, {1}}};
  return {input, {"target", DType::kI64, {}}};
}

TableSource::TableSource(std::shared_ptr<const TableRows> rows)
    : rows_(std::move(rows)), fields_(table_fields(rows_->encoder())) {}

void TableSource::read(std::span<const int64_t> indices, std::span<const ArrayView> fields) const {
  check_read(*this, indices, fields);
  const TableEncoder& encoder = rows_->encoder();
  const auto width = static_cast<size_t>(encoder.width());
  const auto inputs = fields[0].as<float>();
  rows_->visit(indices, [&](size_t at, TableRows::Cells cells) {
    encoder.expand(cells.first(cells.size() - 1), inputs.subspan(at * width, width));
    if (encoder.target().is_number) {
      fields[1].as<float>()[at] = std::bit_cast<float>(cells.back());
    } else {
      fields[1].as<int64_t>()[at] = static_cast<int64_t>(cells.back());
    }
  });
}

}  // namespace furrow::data
