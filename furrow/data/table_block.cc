#include "furrow/data/table_block.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/hash.h"
#include "furrow/base/text.h"
#include "furrow/data/text_shape.h"

namespace furrow::data {
namespace {

// What precedes a block's columns, and each of them.
struct BlockHead {
  uint64_t rows = 0, columns = 0;
};
struct ColumnHead {
  static constexpr uint32_t kTyped = 0x100, kDated = 0x200;  // beside the form
  uint32_t form = 0, first_missing = BlockColumn::kNone;
  uint64_t numbers = 0, values = 0, texts = 0;
};

constexpr std::array<size_t, 5> kCellBytes{8, 4, 1, 2, 4};

size_t padded(size_t bytes) { return (bytes + 7) / 8 * 8; }

// Cuts text and tells what stands for no value.
class Cleaner {
 public:
  explicit Cleaner(const TableRules& rules) : missing_(rules.missing), decimal_(rules.decimal) {
    for (const char c : rules.trim) cut_[static_cast<unsigned char>(c)] = true;
  }
  std::string_view trimmed(std::string_view text) const {
    while (!text.empty() && cut_[static_cast<unsigned char>(text.front())]) text.remove_prefix(1);
    while (!text.empty() && cut_[static_cast<unsigned char>(text.back())]) text.remove_suffix(1);
    return text;
  }
  bool missing(std::string_view text) const {
    return text.empty() || std::ranges::find(missing_, text) != missing_.end();
  }
  bool number(std::string_view text, double& value) const { return finite_number(text, decimal_, value); }
  size_t ways_to_miss() const { return missing_.size() + 1; }

 private:
  const std::vector<std::string>& missing_;
  const char decimal_;
  std::array<bool, 256> cut_{};
};

// Different texts, numbered as they come.  Open addressing; at most half full.
class Codes {
 public:
  static constexpr uint32_t kNew = BlockColumn::kNone;

  // The number of `text`; kNew: it is not there, and add() takes it.
  uint32_t find(std::string_view text) {
    if (last_ < size() && this->text(last_) == text) return last_;  // sorted columns repeat
    hash_ = xxh3_64(text);
    for (at_ = hash_ & mask_; slots_[at_].code != kNew; at_ = (at_ + 1) & mask_) {
      const Slot& slot = slots_[at_];
      if (slot.check == static_cast<uint32_t>(hash_ >> 32) && this->text(slot.code) == text)
        return last_ = slot.code;
    }
    return kNew;
  }

  // REQUIRES: find(text) was the last call and found nothing.
  uint32_t add(std::string_view text) {
    last_ = static_cast<uint32_t>(size());
    slots_[at_] = {static_cast<uint32_t>(hash_ >> 32), last_};
    texts_ += text;
    if (texts_.size() > std::numeric_limits<uint32_t>::max())
      throw Error(ErrorCode::kInvalidArgument, "over 4 GiB of different texts in one part of a column");
    ends_.push_back(static_cast<uint32_t>(texts_.size()));
    if (2 * size() > mask_) grow();
    return last_;
  }

  size_t size() const { return ends_.size(); }
  std::string_view text(size_t code) const {
    const size_t begin = code == 0 ? 0 : ends_[code - 1];
    return std::string_view(texts_).substr(begin, ends_[code] - begin);
  }

 private:
  struct Slot {
    uint32_t check = 0, code = kNew;
  };

  void grow() {
    mask_ = 2 * mask_ + 1;
    slots_.assign(mask_ + 1, {});
    for (uint32_t code = 0; code < size(); ++code) {
      const uint64_t hash = xxh3_64(text(code));
      size_t at = hash & mask_;
      while (slots_[at].code != kNew) at = (at + 1) & mask_;
      slots_[at] = {static_cast<uint32_t>(hash >> 32), code};
    }
  }

  size_t mask_ = 255, at_ = 0;
  uint64_t hash_ = 0;
  uint32_t last_ = 0;
  std::vector<Slot> slots_ = std::vector<Slot>(256);
  std::string texts_;
  std::vector<uint32_t> ends_;
};

// A column as it is made.
struct Made {
  bool coded = true;
  std::vector<uint32_t> codes{};
  std::vector<double> numbers{};
  std::vector<BlockValue> values{};
  std::string texts{};
  uint64_t count = 0;  // of numbers
  uint32_t first_missing = BlockColumn::kNone;

  void miss(uint32_t row) { first_missing = std::min(first_missing, row); }
  void add_value(BlockValue value, std::string_view text) {
    texts += text;
    value.text_end = static_cast<uint32_t>(texts.size());
    values.push_back(value);
  }
};

// Numbers of rows from `row` on, or the days of dates; what is none is counted, the first of them kept.
class NumberMaker {
 public:
  NumberMaker(const TableColumn& column, const Cleaner& cleaner, bool dates, Made& made)
      : column_(column), cleaner_(cleaner), dates_(dates), made_(made) {}

  void add(size_t row) {
    const auto at = static_cast<uint32_t>(row);
    double value = std::nan("");
    if (!column_.is_text) {
      value = column_.has(row) ? column_.numbers[row] : value;
      if (std::isnan(value)) return miss(at);
      if (!std::isfinite(value)) return add_other(at, format_double(value));
      return add_number(value);
    }
    const std::string_view text = column_.has(row) ? cleaner_.trimmed(column_.text_of(row)) : "";
    if (cleaner_.missing(text)) return miss(at);
    const bool read = dates_ ? days_of(text, value) : cleaner_.number(text, value);
    read ? add_number(value) : add_other(at, text);
  }

  void add_number(double value) {
    made_.numbers.push_back(value);
    ++made_.count;
  }
  void miss(uint32_t row) {
    made_.numbers.push_back(std::nan(""));
    made_.miss(row);
  }
  void add_other(uint32_t row, std::string_view text) {
    made_.numbers.push_back(std::nan(""));
    if (made_.values.empty()) made_.add_value({BlockValue::kOther, row, 0, 0}, text);
    ++made_.values[0].count;
  }

 private:
  const TableColumn& column_;
  const Cleaner& cleaner_;
  const bool dates_;
  Made& made_;
};

// Texts of rows, until there are more different numbers than a column of categories may have.
class CodeMaker {
 public:
  CodeMaker(const TableColumn& column, const Cleaner& cleaner, ColumnUse use)
      : column_(column),
        cleaner_(cleaner),
        most_(use == ColumnUse::kCategory ? BlockColumn::kNone : kMostCategories + cleaner.ways_to_miss()),
        known_(column.is_coded ? column.ends.size() : 0, Codes::kNew) {}

  Made make() {
    Made made;
    made.codes.reserve(column_.size());
    for (size_t row = 0; row < column_.size(); ++row) {
      const uint32_t code = code_of(row);
      made.codes.push_back(code);
      ++entries_[code].count;
      if (entries_.size() > most_ && others_ == 0) return as_numbers(made);
    }
    finish(made);
    return made;
  }

 private:
  struct Entry {
    BlockValue::Kind kind;
    uint32_t first_row;
    uint32_t count = 0;
    double number = std::nan("");
  };

  uint32_t code_of(size_t row) {
    const auto at = static_cast<uint32_t>(row);
    if (column_.is_coded && column_.has(row)) {
      uint32_t& code = known_[column_.codes[row]];
      return code != Codes::kNew ? code : code = text_code(column_.text_of(row), at);
    }
    if (column_.is_text) return text_code(column_.has(row) ? column_.text_of(row) : "", at);
    const double value = column_.has(row) ? column_.numbers[row] : std::nan("");
    const auto bits = std::bit_cast<std::array<char, 8>>(std::isnan(value) ? std::nan("") : value);
    const std::string_view key(bits.data(), bits.size());
    const uint32_t code = codes_.find(key);
    if (code != Codes::kNew) return code;
    if (std::isnan(value)) return add(key, {BlockValue::kMissing, at});
    return add(key, {std::isfinite(value) ? BlockValue::kNumber : BlockValue::kOther, at, 0, value});
  }

  uint32_t text_code(std::string_view whole, uint32_t row) {
    const std::string_view text = cleaner_.trimmed(whole);
    const uint32_t code = codes_.find(text);
    if (code != Codes::kNew) return code;
    return add(text, cleaner_.missing(text) ? Entry{BlockValue::kMissing, row} : text_entry(text, row));
  }

  Entry text_entry(std::string_view text, uint32_t row) const {
    double number = 0;
    if (cleaner_.number(text, number)) return {BlockValue::kNumber, row, 0, number};
    return {BlockValue::kOther, row};
  }

  uint32_t add(std::string_view key, const Entry& entry) {
    entries_.push_back(entry);
    others_ += entry.kind == BlockValue::kOther;
    return codes_.add(key);
  }

  std::string text_of(size_t code) const {
    if (entries_[code].kind == BlockValue::kMissing) return {};
    return column_.is_text ? std::string(codes_.text(code)) : format_double(entries_[code].number);
  }

  // All ways to miss a value are one.
  void finish(Made& made) const {
    std::vector<uint32_t> renumbered;
    uint32_t missing = BlockColumn::kNone;
    for (size_t code = 0; code < entries_.size(); ++code) {
      const Entry& entry = entries_[code];
      const bool again = entry.kind == BlockValue::kMissing && missing != BlockColumn::kNone;
      renumbered.push_back(again ? missing : static_cast<uint32_t>(made.values.size()));
      if (entry.kind == BlockValue::kNumber) made.count += entry.count;
      if (again) {
        made.values[missing].count += entry.count;
        continue;
      }
      if (entry.kind == BlockValue::kMissing) {
        missing = renumbered.back();
        made.miss(entry.first_row);
      }
      made.add_value({entry.kind, entry.first_row, entry.count, 0}, text_of(code));
    }
    for (uint32_t& code : made.codes) code = renumbered[code];
  }

  Made as_numbers(const Made& begun) const {
    Made made{.coded = false};
    made.numbers.reserve(column_.size());
    NumberMaker maker(column_, cleaner_, /*dates=*/false, made);
    for (size_t row = 0; row < begun.codes.size(); ++row) {
      const Entry& entry = entries_[begun.codes[row]];
      entry.kind == BlockValue::kNumber ? maker.add_number(entry.number)
                                        : maker.miss(static_cast<uint32_t>(row));
    }
    for (size_t row = begun.codes.size(); row < column_.size(); ++row) maker.add(row);
    return made;
  }

  const TableColumn& column_;
  const Cleaner& cleaner_;
  const size_t most_;
  std::vector<uint32_t> known_;  // codes of the values that the file numbers
  Codes codes_;
  std::vector<Entry> entries_;
  size_t others_ = 0;
};

Made made_of(const TableColumn& column, const Cleaner& cleaner, ColumnUse use) {
  if (use == ColumnUse::kCategory || (use == ColumnUse::kAuto && column.is_text))
    return CodeMaker(column, cleaner, use).make();
  Made made{.coded = false};
  made.numbers.reserve(column.size());
  NumberMaker maker(column, cleaner, use == ColumnUse::kDate, made);
  for (size_t row = 0; row < column.size(); ++row) maker.add(row);
  return made;
}

// Writes values one behind the other.
class Bytes8 {
 public:
  // At most, or nearly so; what is not used is never touched.
  explicit Bytes8(size_t bytes) { bytes_.reserve(bytes); }
  template <class T>
  void put(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    put_all(std::span<const T>(&value, 1));
  }
  template <class T>
  void put_all(std::span<const T> values) {
    const auto bytes = std::as_bytes(values);
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    bytes_.resize(padded(bytes_.size()));
  }
  template <class To, class From>
  void put_as(const std::vector<From>& values) {
    const size_t begin = bytes_.size();
    bytes_.resize(padded(begin + values.size() * sizeof(To)));
    for (size_t i = 0; i < values.size(); ++i) {
      const To value = static_cast<To>(values[i]);
      std::memcpy(bytes_.data() + begin + i * sizeof(To), &value, sizeof value);
    }
  }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

uint32_t form_of(const Made& made) {
  if (made.coded) {
    if (made.values.size() <= 256) return BlockColumn::kCode8;
    return made.values.size() <= 65536 ? BlockColumn::kCode16 : BlockColumn::kCode32;
  }
  const auto exact = [](double value) {
    return std::isnan(value) || (std::fabs(value) <= double{std::numeric_limits<float>::max()} &&
                                 static_cast<double>(static_cast<float>(value)) == value);
  };
  return std::ranges::all_of(made.numbers, exact) ? BlockColumn::kF32 : BlockColumn::kF64;
}

void put_column(const Made& made, uint32_t flags, Bytes8& out) {
  const uint32_t form = form_of(made);
  out.put(ColumnHead{form | flags, made.first_missing, made.count, made.values.size(), made.texts.size()});
  if (form == BlockColumn::kF64) out.put_as<double>(made.numbers);
  if (form == BlockColumn::kF32) out.put_as<float>(made.numbers);
  if (form == BlockColumn::kCode8) out.put_as<uint8_t>(made.codes);
  if (form == BlockColumn::kCode16) out.put_as<uint16_t>(made.codes);
  if (form == BlockColumn::kCode32) out.put_as<uint32_t>(made.codes);
  out.put_all(std::span<const BlockValue>(made.values));
  out.put_all(std::span<const char>(made.texts));
}

uint32_t flags_of(const TableColumn& column, ColumnUse use) {
  if (column.size() == 0) return 0;
  const bool dated = column.is_date || use == ColumnUse::kDate;
  return (column.is_text ? 0 : ColumnHead::kTyped) | (dated ? ColumnHead::kDated : 0);
}

bool is_ascii(std::string_view text) {
  unsigned char all = 0;
  for (const char c : text) all |= static_cast<unsigned char>(c);
  return all < 0x80;
}

// Most text needs no look at its rows.
void check_utf8(const TableColumn& column, int64_t* bad_row) {
  if (!column.is_text || is_ascii(column.text)) return;
  for (size_t row = 0; row < column.size(); ++row) {
    if (is_utf8(column.text_of(row))) continue;
    *bad_row = static_cast<int64_t>(row);
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("column '{}' has text that is not UTF-8: convert the file, such as with iconv",
                            column.name));
  }
}

[[noreturn]] void damaged() { throw Error(ErrorCode::kDataLoss, "a block of rows is damaged"); }

template <class Code>
bool codes_below(const std::byte* cells, size_t rows, size_t values) {
  Code largest = 0;
  for (const Code code : std::span(reinterpret_cast<const Code*>(cells), rows))
    largest = std::max(largest, code);
  return rows == 0 || largest < values;
}

// Whatever the bytes are, what follows stays within them.
void check_column(const BlockColumn& column, size_t rows) {
  uint32_t end = 0;
  for (const BlockValue& value : column.values) {
    if (value.text_end < std::exchange(end, value.text_end) || end > column.texts.size()) damaged();
    if (value.kind > BlockValue::kOther || value.first_row >= rows) damaged();
  }
  if (column.first_missing != BlockColumn::kNone && column.first_missing >= rows) damaged();
  const size_t values = column.values.size();
  if (column.form == BlockColumn::kCode8 && !codes_below<uint8_t>(column.cells, rows, values)) damaged();
  if (column.form == BlockColumn::kCode16 && !codes_below<uint16_t>(column.cells, rows, values)) damaged();
  if (column.form == BlockColumn::kCode32 && !codes_below<uint32_t>(column.cells, rows, values)) damaged();
}

// Reads what Bytes8 has written.
class View8 {
 public:
  explicit View8(std::span<const std::byte> bytes) : bytes_(bytes) {}
  template <class T>
  T get() {
    T value;
    std::memcpy(&value, take(1, sizeof value), sizeof value);
    return value;
  }
  const std::byte* take(uint64_t count, size_t each) {
    if (count > bytes_.size() / each) throw Error(ErrorCode::kDataLoss, "a block of rows is cut short");
    const std::byte* const begin = bytes_.data();
    bytes_ = bytes_.subspan(std::min(bytes_.size(), padded(count * each)));
    return begin;
  }

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace

uint32_t BlockColumn::code(size_t row) const {
  if (form == kCode8) return std::to_integer<uint32_t>(cells[row]);
  if (form == kCode16) return reinterpret_cast<const uint16_t*>(cells)[row];
  return reinterpret_cast<const uint32_t*>(cells)[row];
}

double BlockColumn::number(size_t row) const {
  if (form == kF32) return reinterpret_cast<const float*>(cells)[row];
  return reinterpret_cast<const double*>(cells)[row];
}

std::vector<std::byte> make_block(const TableContents& contents, std::span<const ColumnUse> uses,
                                  const TableRules& rules, int64_t* bad_row) {
  FURROW_CHECK(uses.size() == contents.columns.size(), "uses of other columns");
  FURROW_CHECK(contents.rows < std::numeric_limits<uint32_t>::max(), "too many rows in one block");
  const Cleaner cleaner(rules);
  Bytes8 out((static_cast<size_t>(contents.rows) + 16) * uses.size() * sizeof(double));
  const auto used = static_cast<uint64_t>(uses.size() - std::ranges::count(uses, ColumnUse::kIgnored));
  out.put(BlockHead{static_cast<uint64_t>(contents.rows), used});
  for (size_t c = 0; c < uses.size(); ++c) {
    if (uses[c] == ColumnUse::kIgnored) continue;
    FURROW_CHECK(contents.columns[c].size() == static_cast<size_t>(contents.rows),
                 "a column of another length");
    check_utf8(contents.columns[c], bad_row);
    put_column(made_of(contents.columns[c], cleaner, uses[c]), flags_of(contents.columns[c], uses[c]), out);
  }
  return out.take();
}

Block::Block(std::span<const std::byte> bytes) {
  View8 in(bytes);
  const auto head = in.get<BlockHead>();
  rows_ = head.rows;
  for (uint64_t c = 0; c < head.columns; ++c) {
    const auto column = in.get<ColumnHead>();
    const uint32_t form = column.form & ~(ColumnHead::kTyped | ColumnHead::kDated);
    if (form >= kCellBytes.size()) damaged();
    BlockColumn view{.form = form,
                     .typed = (column.form & ColumnHead::kTyped) != 0,
                     .dated = (column.form & ColumnHead::kDated) != 0,
                     .first_missing = column.first_missing,
                     .numbers = column.numbers};
    view.cells = in.take(head.rows, kCellBytes[form]);
    view.values = {reinterpret_cast<const BlockValue*>(in.take(column.values, sizeof(BlockValue))),
                   column.values};
    view.texts = {reinterpret_cast<const char*>(in.take(column.texts, 1)), column.texts};
    check_column(view, rows_);
    columns_.push_back(view);
  }
}

}  // namespace furrow::data
