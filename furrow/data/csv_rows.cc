#include "furrow/data/csv_rows.h"

namespace furrow::data {
namespace {

constexpr size_t kNone = std::string_view::npos;

// A lone CR ends a row too, but for one at the very end.
bool ends_row(std::string_view text, size_t at) {
  if (text[at] == '\n') return true;
  return text[at] == '\r' && at + 1 < text.size() && text[at + 1] != '\n';
}

// Behind the last row that ends in [begin, end) of `text`, all of it outside of quotes.
size_t last_end(std::string_view text, size_t begin, size_t end) {
  const std::string_view part = text.substr(begin, end - begin);
  const size_t line_feed = part.rfind('\n');
  const size_t behind = line_feed == kNone ? 0 : line_feed + 1;
  for (size_t at = part.size(); at-- > behind;) {
    if (part[at] == '\r' && ends_row(text, begin + at)) return begin + at + 1;
  }
  return line_feed == kNone ? kNone : begin + behind;
}

size_t first_end(std::string_view text, size_t begin, size_t end) {
  for (size_t at = text.find_first_of("\r\n", begin); at < end; at = text.find_first_of("\r\n", at + 1)) {
    if (ends_row(text, at)) return at + 1;
  }
  return kNone;
}

// The quote that opens a value, from `at` on, where no value is open.
size_t opening_quote(std::string_view text, size_t at, char delimiter) {
  for (size_t quote = text.find('"', at); quote != kNone; quote = text.find('"', quote + 1)) {
    const char before = quote == 0 ? '\n' : text[quote - 1];
    if (before == delimiter || before == '\n' || before == '\r') return quote;
  }
  return kNone;
}

// The quote that closes a value whose text begins at `at`.
size_t closing_quote(std::string_view text, size_t at) {
  for (size_t quote = text.find('"', at); quote != kNone; quote = text.find('"', quote + 2)) {
    if (quote + 1 == text.size() || text[quote + 1] != '"') return quote;
  }
  return kNone;
}

// Tells `stretch(begin, end)` all that lies outside of quotes, in order, until it says false.
template <class Stretch>
void outside_quotes(std::string_view text, char delimiter, const Stretch& stretch) {
  size_t at = 0;
  while (true) {
    const size_t open = opening_quote(text, at, delimiter);
    if (!stretch(at, open == kNone ? text.size() : open) || open == kNone) return;
    const size_t close = closing_quote(text, open + 1);
    if (close == kNone) return;
    at = close + 1;
  }
}

}  // namespace

size_t whole_rows(std::string_view text, char delimiter) {
  size_t rows = 0;
  outside_quotes(text, delimiter, [&](size_t begin, size_t end) {
    const size_t found = last_end(text, begin, end);
    if (found != kNone) rows = found;
    return true;
  });
  return rows;
}

size_t first_row(std::string_view text, char delimiter) {
  size_t row = 0;
  outside_quotes(text, delimiter, [&](size_t begin, size_t end) {
    const size_t found = first_end(text, begin, end);
    if (found != kNone) row = found;
    return found == kNone;
  });
  return row;
}

std::vector<std::string> names_of_line(std::string_view line, char delimiter) {
  std::vector<std::string> names(1);
  bool quoted = false;
  for (size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (quoted && c == '"' && i + 1 < line.size() && line[i + 1] == '"') {
      names.back() += '"';
      ++i;
    } else if (c == '"') {
      quoted = !quoted;
    } else if (c == delimiter && !quoted) {
      names.emplace_back();
    } else {
      names.back() += c;
    }
  }
  return names;
}

}  // namespace furrow::data
