#include "furrow/config/schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "furrow/base/error.h"
#include "furrow/base/names.h"
#include "furrow/base/text.h"

namespace furrow::config {
namespace {

// Visits the keys of one section.
template <class S>
struct FieldVisitor {
  S Config::* section;
  std::vector<Field>& out;
  std::string section_name;

  template <class T>
  void operator()(std::string_view key, T S::* member, const FieldSpec& spec) {
    const auto part = section;
    out.push_back({.section = section_name,
                   .key = std::string(key),
                   .spec = spec,
                   .default_value = Value(S{}.*member),
                   .get = [part, member](const Config& config) { return Value(config.*part.*member); },
                   .set = [part, member](Config& config,
                                         const Value& value) { config.*part.*member = std::get<T>(value); }});
  }
};

struct SectionVisitor {
  std::vector<Section>& out;

  template <class S>
  void operator()(std::string_view name, S Config::* section, std::string_view doc) {
    out.push_back({.name = std::string(name), .doc = std::string(doc), .fields = {}});
    FieldVisitor<S> visitor{section, out.back().fields, std::string(name)};
    S::fields(visitor);
  }
};

std::vector<Section> make_schema() {
  std::vector<Section> sections;
  SectionVisitor visitor{sections};
  Config::sections(visitor);
  return sections;
}

std::string range_text(const FieldSpec& spec) {
  const bool low = std::isfinite(spec.min), high = std::isfinite(spec.max);
  const std::string lower =
      fmt::format("{} {}", spec.above_min ? "above" : "at least", format_double(spec.min));
  const std::string upper =
      fmt::format("{} {}", spec.below_max ? "below" : "at most", format_double(spec.max));
  if (low && high) return lower + " and " + upper;
  return low ? lower : high ? upper : "finite";
}

void check_number(const Field& field, double number, const std::string& context) {
  const FieldSpec& spec = field.spec;
  const bool above = spec.above_min ? number > spec.min : number >= spec.min;
  const bool below = spec.below_max ? number < spec.max : number <= spec.max;
  if (above && below && std::isfinite(number)) return;
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("{}{} = {} is out of range: it must be {}", context, field.name(),
                          format_double(number), range_text(spec)));
}

void check_choice(const Field& field, const std::string& text, const std::string& context) {
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
  std::string operator()(const std::vector<std::string>& list) const {
    std::vector<std::string> quoted;
    for (const std::string& text : list) quoted.push_back((*this)(text));
    return fmt::format("[{}]", fmt::join(quoted, ", "));
  }
};

// "key in [section]" hints beyond the section itself: the same key elsewhere.
std::string elsewhere(std::string_view section, std::string_view key) {
  for (const Section& each : schema()) {
    for (const Field& field : each.fields) {
      if (field.key == key && each.name != section) return fmt::format(" ({} is a key)", field.name());
    }
  }
  return "";
}

}  // namespace

std::string_view type_name(const Value& value) {
  constexpr std::string_view names[] = {"true or false", "an integer",         "a number",
                                        "a string",      "a list of integers", "a list of strings"};
  return names[value.index()];
}

std::string to_toml(const Value& value) { return std::visit(TomlText{}, value); }

const std::vector<Section>& schema() {
  static const std::vector<Section> sections = make_schema();
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

const Field& require_field(std::string_view section, std::string_view key, const std::string& context) {
  std::vector<std::string> known;
  for (const Section& each : schema()) {
    known.push_back(each.name);
    if (each.name != section) continue;
    std::vector<std::string> keys;
    for (const Field& field : each.fields) {
      if (field.key == key) return field;
      keys.push_back(field.key);
    }
    const std::string what = fmt::format("key in [{}]", section);
    throw Error(ErrorCode::kInvalidArgument,
                context + unknown_name_message(what, key, keys) + elsewhere(section, key));
  }
  throw Error(ErrorCode::kInvalidArgument, context + unknown_name_message("section", section, known));
}

void check_value(const Field& field, const Value& value, const std::string& context) {
  if (const auto* integer = std::get_if<int64_t>(&value)) {
    check_number(field, static_cast<double>(*integer), context);
  } else if (const auto* number = std::get_if<double>(&value)) {
    check_number(field, *number, context);
  } else if (const auto* text = std::get_if<std::string>(&value)) {
    check_choice(field, *text, context);
  } else if (const auto* integers = std::get_if<std::vector<int64_t>>(&value)) {
    for (const int64_t each : *integers) check_number(field, static_cast<double>(each), context);
  } else if (const auto* texts = std::get_if<std::vector<std::string>>(&value)) {
    for (const std::string& each : *texts) check_choice(field, each, context);
  }
}

bool applies(const Field& field, const Config& config) {
  const std::string_view condition = field.spec.only_if;
  if (condition.empty()) return true;
  const size_t equals = condition.find('=');
  const Field* other = find_field(condition.substr(0, equals));
  FURROW_CHECK(other != nullptr, "only_if of " + field.name() + " names no key");
  const Value value = other->get(config);
  const auto* text = std::get_if<std::string>(&value);
  const std::string current = text != nullptr ? *text : to_toml(value);
  const std::vector<std::string> wanted = split(condition.substr(equals + 1), '|');
  return std::find(wanted.begin(), wanted.end(), current) != wanted.end();
}

}  // namespace furrow::config
