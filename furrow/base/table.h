// A table that a command prints: aligned text for people, the same rows as JSON with --json.  Not thread
// safe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace furrow {

// monostate is an absent value: "-" as text, null as JSON.
using Cell = std::variant<std::monostate, std::string, int64_t, double, bool>;

inline constexpr int kAsBytes = -2;

struct Column {
  std::string title;     // "step time"
  std::string key = {};  // key in JSON; empty: the title with _ for spaces
  int decimals = -1;     // of a double as text; -1: shortest.  JSON always has the shortest
                         // kAsBytes: of an integer, its text is "1.5 KiB"
};

class Table {
 public:
  explicit Table(std::vector<Column> columns);
  void add_row(std::vector<Cell> cells);  // REQUIRES: one per column
  size_t rows() const { return rows_.size(); }

  std::string text()
      const;  // header and rows, columns two spaces apart, numbers to the right, '\n' at the end
  std::string json() const;  // an array with one object per row, '\n' at the end
  std::string print(bool as_json) const { return as_json ? json() : text(); }

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<Cell>> rows_;
};

}  // namespace furrow
