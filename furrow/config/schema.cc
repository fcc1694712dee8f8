#include "furrow/config/schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "furrow/base/error.h"
#include "furrow/base/text.h"
#include "furrow/config/expand.h"

namespace furrow::config {
namespace {

std::string range_text(const FieldSpec& spec) {
  const bool low = std::isfinite(spec.min), high = std::isfinite(spec.max);
  const std::string lower =
      fmt::format("{} {}", spec.above_min ? "above" : "at least", format_double(spec.min));
  const std::string upper =
      fmt::format("{} {}", spec.below_max ? "below" : "at most", format_double(spec.max));
  if (low && high) return lower + " and " + upper;
  return low ? lower : high ? upper : "finite";
}

void check_number(const FieldInfo& field, double number, const std::string& context) {
  const FieldSpec& spec = field.spec;
  const bool above = spec.above_min ? number > spec.min : number >= spec.min;
  const bool below = spec.below_max ? number < spec.max : number <= spec.max;
  if (above && below && std::isfinite(number)) return;
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("{}{} = {} is out of range: it must be {}", context, field.name(),
                          format_double(number), range_text(spec)));
}

void check_choice(const FieldInfo& field, const std::string& text, const std::string& context) {
  if (!is_utf8(text)) {
    throw Error(ErrorCode::kInvalidArgument, fmt::format("{}{} is not valid UTF-8", context, field.name()));
  }
  if (field.spec.choices.empty()) return;
  const std::vector<std::string> known = split(field.spec.choices, '|');
  if (std::find(known.begin(), known.end(), text) != known.end()) return;
  throw Error(ErrorCode::kInvalidArgument, context + unknown_name_message(field.name(), text, known));
}

// A value as the right-hand side of a TOML line.
struct TomlText {
  std::string operator()(bool truth) const { return truth ? "true" : "false"; }
  std::string operator()(int64_t number) const { return std::to_string(number); }
  std::string operator()(double number) const {
    const std::string text = format_double(number);
    return text.find_first_of(".en") == std::string::npos ? text + ".0" : text;
  }
  std::string operator()(const std::string& text) const {
    std::string escaped;
    for (size_t i = 0; i < text.size(); ++i) {
      if (text[i] == '$' && i + 1 < text.size() && text[i + 1] == '{') escaped += '$';
      escaped += text[i];
    }
    return json_quote(escaped);  // JSON's escapes are a part of TOML's
  }
  std::string operator()(const std::vector<int64_t>& list) const {
    return fmt::format("[{}]", fmt::join(list, ", "));
  }
  std::string operator()(const std::vector<std::string>& list) const { return each(list); }
  std::string operator()(const std::vector<double>& list) const { return each(list); }

 private:
  template <class T>
  std::string each(const std::vector<T>& list) const {
    std::vector<std::string> texts;
    for (const T& element : list) texts.push_back((*this)(element));
    return fmt::format("[{}]", fmt::join(texts, ", "));
  }
};

// `value` as the type of the key.
Value convert(const FieldInfo& field, const Value& value, const std::string& context) {
  const Value& wanted = field.default_value;
  if (value.index() == wanted.index()) return value;
  if (const auto* integer = std::get_if<int64_t>(&value);
      integer != nullptr && std::holds_alternative<double>(wanted)) {
    return static_cast<double>(*integer);
  }
  const bool numbers = std::holds_alternative<std::vector<double>>(wanted);
  if (const auto* integers = std::get_if<std::vector<int64_t>>(&value); integers != nullptr && numbers)
    return std::vector<double>(integers->begin(), integers->end());
  const auto* texts = std::get_if<std::vector<std::string>>(&value);
  if (texts != nullptr && texts->empty()) {
    if (numbers) return std::vector<double>{};
    if (std::holds_alternative<std::vector<int64_t>>(wanted)) return std::vector<int64_t>{};
  }
  refuse_type(field, fmt::format("{} ({})", to_toml(value), type_name(value)), context);
}

Value expand(Value value, const std::string& context) {
  if (auto* text = std::get_if<std::string>(&value)) *text = expand_environment(*text, context);
  if (auto* texts = std::get_if<std::vector<std::string>>(&value)) {
    for (std::string& text : *texts) text = expand_environment(text, context);
  }
  return value;
}

}  // namespace

std::string_view type_name(const Value& value) {
  constexpr std::string_view names[] = {"true or false",    "an integer",         "a number",
                                        "a string",         "a list of integers", "a list of strings",
                                        "a list of numbers"};
  return names[value.index()];
}

std::string to_toml(const Value& value) { return std::visit(TomlText{}, value); }

const std::vector<Section>& schema() {
  static const std::vector<Section> sections = make_schema<Config>();
  return sections;
}

const Field* find_field(std::string_view name) {
  for (const Section& section : schema()) {
    for (const Field& field : section.fields) {
      if (field.name() == name) return &field;
    }
  }
  return nullptr;
}

void refuse_type(const FieldInfo& field, std::string_view got, const std::string& context) {
  throw Error(ErrorCode::kInvalidArgument, fmt::format("{}{} must be {}, not {}", context, field.name(),
                                                       type_name(field.default_value), got));
}

Value accept_value(const FieldInfo& field, const Value& value, const std::string& context) {
  Value accepted = expand(convert(field, value, context), context);
  check_value(field, accepted, context);
  return accepted;
}

void check_value(const FieldInfo& field, const Value& value, const std::string& context) {
  if (const auto* integer = std::get_if<int64_t>(&value)) {
    check_number(field, static_cast<double>(*integer), context);
  } else if (const auto* number = std::get_if<double>(&value)) {
    check_number(field, *number, context);
  } else if (const auto* text = std::get_if<std::string>(&value)) {
    check_choice(field, *text, context);
  } else if (const auto* integers = std::get_if<std::vector<int64_t>>(&value)) {
    for (const int64_t each : *integers) check_number(field, static_cast<double>(each), context);
  } else if (const auto* numbers = std::get_if<std::vector<double>>(&value)) {
    for (const double each : *numbers) check_number(field, each, context);
  } else if (const auto* texts = std::get_if<std::vector<std::string>>(&value)) {
    for (const std::string& each : *texts) check_choice(field, each, context);
  }
}

std::vector<Condition> conditions_of(std::string_view only_if) {
  constexpr std::string_view kOr = " or ";
  std::vector<Condition> conditions;
  while (!only_if.empty()) {
    const size_t end = std::min(only_if.find(kOr), only_if.size());
    const std::string_view one = only_if.substr(0, end);
    const size_t sign = one.find_first_of("=>~");
    FURROW_CHECK(sign != std::string_view::npos,
                 "a condition is written key=value|value, key>number or key~part");
    conditions.push_back({one.substr(0, sign), one[sign], split(one.substr(sign + 1), '|')});
    only_if.remove_prefix(std::min(end + kOr.size(), only_if.size()));
  }
  return conditions;
}

bool holds(const Condition& condition, const Config& config) {
  const Field* other = find_field(condition.key);
  FURROW_CHECK(other != nullptr, fmt::format("only_if names no key: {}", condition.key));
  const Value value = other->get(config);
  if (condition.sign == '>') {
    int64_t least = 0;
    FURROW_CHECK(parse_int(condition.values[0], least), fmt::format("only_if of {}", condition.key));
    return std::get<int64_t>(value) > least;
  }
  if (condition.sign == '~') {
    return std::ranges::any_of(std::get<std::vector<std::string>>(value), [&](const std::string& entry) {
      return std::ranges::any_of(
          condition.values, [&](const std::string& part) { return entry.find(part) != std::string::npos; });
    });
  }
  const auto* text = std::get_if<std::string>(&value);
  const std::string current = text != nullptr ? *text : to_toml(value);
  return std::ranges::find(condition.values, current) != condition.values.end();
}

bool applies(const Field& field, const Config& config) {
  const std::vector<Condition> conditions = conditions_of(field.spec.only_if);
  return conditions.empty() || std::ranges::any_of(conditions, [&](const Condition& condition) {
           return holds(condition, config);
         });
}

}  // namespace furrow::config
