#include "furrow/base/table.h"

#include <algorithm>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/text.h"

namespace furrow {
namespace {

std::string cell_text(const Cell& cell, int decimals) {
  struct Visitor {
    int decimals;
    std::string operator()(std::monostate) const { return "-"; }
    std::string operator()(const std::string& text) const { return text; }
    std::string operator()(int64_t number) const {
      return decimals == kAsBytes ? format_bytes(static_cast<uint64_t>(number)) : std::to_string(number);
    }
    std::string operator()(double number) const {
      return decimals < 0 ? format_double(number) : format_fixed(number, decimals);
    }
    std::string operator()(bool truth) const { return truth ? "yes" : "no"; }
  };
  return std::visit(Visitor{decimals}, cell);
}

bool is_number(const Cell& cell) {
  return std::holds_alternative<int64_t>(cell) || std::holds_alternative<double>(cell);
}

// Code points, so that a name with an accent keeps its column.
size_t width_of(std::string_view text) {
  return static_cast<size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

void append_padded(std::string& line, const std::string& text, size_t width, bool right) {
  const std::string padding(width - std::min(width, width_of(text)), ' ');
  line += right ? padding + text : text + padding;
}

void append_line(std::string& out, std::string line) {
  line.erase(line.find_last_not_of(' ') + 1);
  out += line + '\n';
}

void append_json(JsonWriter& json, const Cell& cell) {
  if (std::holds_alternative<std::monostate>(cell)) {
    json.null();
    return;
  }
  std::visit(
      [&](const auto& content) {
        if constexpr (!std::is_same_v<std::decay_t<decltype(content)>, std::monostate>) json.value(content);
      },
      cell);
}

}  // namespace

Table::Table(std::vector<Column> columns) : columns_(std::move(columns)) {
  for (Column& column : columns_) {
    if (!column.key.empty()) continue;
    column.key = column.title;
    std::replace(column.key.begin(), column.key.end(), ' ', '_');
  }
}

void Table::add_row(std::vector<Cell> cells) {
  FURROW_CHECK(cells.size() == columns_.size(), "a table row needs one cell per column");
  rows_.push_back(std::move(cells));
}

std::string Table::text() const {
  std::string out;
  std::vector<std::string> lines(rows_.size() + 1);
  for (size_t c = 0; c < columns_.size(); ++c) {
    size_t width = width_of(columns_[c].title);
    bool right = false;
    for (const auto& row : rows_) {
      width = std::max(width, width_of(cell_text(row[c], columns_[c].decimals)));
      right = right || is_number(row[c]);
    }
    append_padded(lines[0], columns_[c].title, width, right);
    for (size_t r = 0; r < rows_.size(); ++r) {
      append_padded(lines[r + 1], cell_text(rows_[r][c], columns_[c].decimals), width, right);
    }
    for (std::string& line : lines) line += "  ";
  }
  for (std::string& line : lines) append_line(out, std::move(line));
  return out;
}

std::string Table::json() const {
  JsonWriter json(2);
  json.begin_array();
  for (const auto& row : rows_) {
    json.begin_object();
    for (size_t c = 0; c < columns_.size(); ++c) {
      json.key(columns_[c].key);
      append_json(json, row[c]);
    }
    json.end_object();
  }
  json.end_array();
  return json.text() + '\n';
}

}  // namespace furrow
