#include "furrow/data/text_shape.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <optional>
#include <vector>

#include "furrow/base/text.h"

namespace furrow::data {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Takes what a text is made of from its front.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text) {}
  bool done() const { return text_.empty(); }
  char front() const { return text_.empty() ? '\0' : text_.front(); }
  bool take(char c) {
    if (front() != c) return false;
    text_.remove_prefix(1);
    return true;
  }
  // So many digits as a number, at least `least` and at most `most` of them.
  std::optional<int> digits(size_t least, size_t most) {
    size_t count = 0;
    int value = 0;
    for (; count < most && count < text_.size() && is_digit(text_[count]); ++count)
      value = 10 * value + (text_[count] - '0');
    if (count < least) return std::nullopt;
    text_.remove_prefix(count);
    return value;
  }
  // ".5" in seconds; 0 where there are none, nothing where a point has no digits behind it.
  std::optional<double> fraction() {
    if (front() != '.' && front() != ',') return 0.0;
    size_t end = 1;
    while (end < text_.size() && is_digit(text_[end])) ++end;
    if (end == 1) return std::nullopt;
    double value = 0;
    const std::string number = "0." + std::string(text_.substr(1, end - 1));
    text_.remove_prefix(end);
    return parse_double(number, value) ? std::optional(value) : std::nullopt;
  }

 private:
  std::string_view text_;
};

// "12:30", "12:30:59.5", in seconds.
std::optional<double> time_of_day(Scanner& in) {
  const auto hours = in.digits(2, 2);
  if (!hours || *hours > 23 || !in.take(':')) return std::nullopt;
  const auto minutes = in.digits(2, 2);
  if (!minutes || *minutes > 59) return std::nullopt;
  const double so_far = 3600.0 * *hours + 60.0 * *minutes;
  if (!in.take(':')) return so_far;
  const auto seconds = in.digits(2, 2);
  if (!seconds || *seconds > 59) return std::nullopt;
  const auto fraction = in.fraction();
  return fraction ? std::optional(so_far + *seconds + *fraction) : std::nullopt;
}

// "Z", "+01", "-0330", "+05:45", in seconds; 0 where there is none.
std::optional<int> zone(Scanner& in) {
  if (in.take('Z') || in.done()) return 0;
  const int sign = in.front() == '-' ? -1 : 1;
  if (!in.take('+') && !in.take('-')) return std::nullopt;
  const auto hours = in.digits(2, 2);
  if (!hours || *hours > 23) return std::nullopt;
  if (in.done()) return sign * 3600 * *hours;
  in.take(':');
  const auto minutes = in.digits(2, 2);
  if (!minutes || *minutes > 59) return std::nullopt;
  return sign * (3600 * *hours + 60 * *minutes);
}

std::optional<double> date_and_time(std::string_view text) {
  Scanner in(text);
  const auto year = in.digits(4, 4);
  if (!year || *year == 0 || !in.take('-')) return std::nullopt;
  const auto month = in.digits(2, 2);
  if (!month || !in.take('-')) return std::nullopt;
  const auto day = in.digits(2, 2);
  if (!day) return std::nullopt;
  const std::chrono::year_month_day date{std::chrono::year(*year),
                                         std::chrono::month(static_cast<unsigned>(*month)),
                                         std::chrono::day(static_cast<unsigned>(*day))};
  if (!date.ok()) return std::nullopt;
  const auto days = static_cast<double>(std::chrono::sys_days(date).time_since_epoch().count());
  if (in.done()) return days;
  if (!in.take('T') && !in.take(' ')) return std::nullopt;
  const auto seconds = time_of_day(in);
  const auto shift = seconds ? zone(in) : std::nullopt;
  if (!shift || !in.done()) return std::nullopt;
  return (days * 86400 + *seconds - *shift) / 86400;  // one rounding, as of a column of seconds
}

// "31.12.2024", "12/31/24", "2024/12/31", also with a time of day.
bool is_local_date(std::string_view text) {
  Scanner in(text);
  const bool year_first = text.size() > 4 && std::ranges::all_of(text.substr(0, 4), is_digit);
  const auto first = year_first ? in.digits(4, 4) : in.digits(1, 2);
  const char between = in.front();
  if (!first || (between != '.' && between != '/' && between != '-')) return false;
  in.take(between);
  const auto second = in.digits(1, 2);
  if (!second || !in.take(between)) return false;
  const auto third = year_first ? in.digits(1, 2) : in.digits(2, 4);
  if (!third) return false;
  const int a = year_first ? *third : *first, b = *second;  // day and month, in some order
  if (a < 1 || b < 1 || std::max(a, b) > 31 || std::min(a, b) > 12) return false;
  return in.done() || in.front() == ' ' || in.front() == 'T' || in.front() == ',';
}

bool is_time_of_day(std::string_view text) {
  Scanner in(text);
  return time_of_day(in) && in.done();
}

// Cuts signs of money and per cent off both ends; true: there was one.
bool cut_unit(std::string_view& text) {
  constexpr std::array<std::string_view, 6> kUnits = {"$", "%", "\u20ac", "\u00a3", "\u00a5", "\u20b9"};
  const size_t before = text.size();
  for (const std::string_view unit : kUnits) {
    if (text.starts_with(unit)) text.remove_prefix(unit.size());
    if (text.ends_with(unit)) text.remove_suffix(unit.size());
  }
  const bool cut = text.size() != before;
  if (cut) text = trim(text);
  return cut;
}

// The separator that `text` begins with, in bytes: , . ' or a space, a narrow or an unbroken one too.
size_t separator_bytes(std::string_view text) {
  for (const std::string_view space : {"\u00a0", "\u202f", "\u2019"}) {
    if (text.starts_with(space)) return space.size();
  }
  return std::string_view(",.' ").find(text.front()) == std::string_view::npos ? 0 : 1;
}

// Digits and what stands between them.
struct Digits {
  std::vector<std::string_view> runs, separators;
};
std::optional<Digits> digits_of(std::string_view text) {
  Digits digits;
  while (true) {
    const size_t end = std::min(text.size(), text.find_first_not_of("0123456789"));
    if (end == 0) return std::nullopt;
    digits.runs.push_back(text.substr(0, end));
    text.remove_prefix(end);
    if (text.empty()) return digits;
    const size_t bytes = separator_bytes(text);
    if (bytes == 0) return std::nullopt;
    digits.separators.push_back(text.substr(0, bytes));
    text.remove_prefix(bytes);
  }
}

// Thousands set off by one separator, decimals perhaps by another.
bool is_grouped(const Digits& digits) {
  const auto& [runs, separators] = digits;
  const bool decimals = separators.size() > 1 && separators.back() != separators.front() &&
                        (separators.back() == "." || separators.back() == ",");
  const size_t groups = decimals ? runs.size() - 1 : runs.size();
  if (runs[0].size() > 3 || groups < 2) return false;
  for (size_t i = 1; i < groups; ++i) {
    if (runs[i].size() != 3 || separators[i - 1] != separators[0]) return false;
  }
  return true;
}

TextShape number_shape(std::string_view text, char decimal) {
  const std::string_view other = decimal == '.' ? "," : ".";
  const auto digits = digits_of(text);
  if (!digits || digits->separators.empty()) return TextShape::kOther;
  const auto& [runs, separators] = *digits;
  const bool grouped = is_grouped(*digits);
  if (separators.size() > 1 || separators[0] != other)
    return grouped ? TextShape::kGroups : TextShape::kOther;
  return grouped && runs[0] != "0" ? TextShape::kEither : TextShape::kDecimals;
}

}  // namespace

bool finite_number(std::string_view text, char decimal, double& value) {
  if (decimal == '.' || text.find_first_of(".,") == std::string_view::npos)
    return parse_double(text, value) && std::isfinite(value);
  std::string with_point(text);
  if (with_point.find('.') != std::string::npos) return false;
  std::ranges::replace(with_point, ',', '.');
  return parse_double(with_point, value) && std::isfinite(value);
}

bool days_of(std::string_view text, double& days) {
  const auto found = date_and_time(text);
  if (found) days = *found;
  return found.has_value();
}

TextShape shape_of(std::string_view text, char decimal) {
  double days = 0;
  if (text.empty()) return TextShape::kOther;
  if (days_of(text, days)) return TextShape::kDate;
  if (is_local_date(text)) return TextShape::kLocalDate;
  if (is_time_of_day(text)) return TextShape::kTimeOfDay;
  if (text.front() == '-' || text.front() == '+') text.remove_prefix(1);
  const bool unit = cut_unit(text);
  if (!unit) return number_shape(text, decimal);
  double number = 0;
  const bool is_number =
      finite_number(text, decimal, number) || number_shape(text, decimal) != TextShape::kOther;
  return is_number ? TextShape::kUnit : TextShape::kOther;
}

std::string remedy_of(TextShape shape, char decimal) {
  const char other = decimal == '.' ? ',' : '.';
  const std::string name = other == ',' ? "comma" : "point";
  switch (shape) {
    case TextShape::kOther:
      return "";
    case TextShape::kDate:
      return "a date: list the column in data.date_columns";
    case TextShape::kLocalDate:
      return "a date that is not of ISO 8601: write it as 2024-12-31 and list the column in "
             "data.date_columns";
    case TextShape::kTimeOfDay:
      return "a time of day: write it as a number, such as of minutes";
    case TextShape::kDecimals:
      return fmt::format("a number with a decimal {}: set data.decimal = \"{}\"", name, other);
    case TextShape::kGroups:
      return "a number with its thousands set off: write it without";
    case TextShape::kEither:
      return fmt::format(
          "a number with a decimal {} or with its thousands set off: set data.decimal = \"{}\", or write it "
          "without",
          name, other);
    case TextShape::kUnit:
      return "a number with a unit: write it without";
  }
  return "";
}

}  // namespace furrow::data
