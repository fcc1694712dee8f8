#include "furrow/config/toml.h"

#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>
#include <optional>

#include "furrow/base/error.h"

namespace furrow::config {
namespace {

[[noreturn]] void fail(const std::string& file, uint32_t line, const std::string& message) {
  throw Error(ErrorCode::kInvalidArgument, fmt::format("{}:{}: {}", file, line, message));
}

// The strings of a list in a list, as one string with spaces between them; nothing where it has another
// element.
std::optional<std::string> joined(const toml::array& list) {
  std::string words;
  for (const toml::node& element : list) {
    const auto text = element.value_exact<std::string>();
    if (!text) return std::nullopt;
    words += (words.empty() ? "" : " ") + *text;
  }
  return words;
}

// A list of one of our element types; the empty list is one of strings, which every other list accepts too.
std::variant<Value, UnsupportedValue> read_list(const toml::array& list) {
  std::vector<int64_t> integers;
  std::vector<double> numbers;  // integers among them
  std::vector<std::string> texts;
  for (const toml::node& element : list) {
    if (const auto integer = element.value_exact<int64_t>()) {
      integers.push_back(*integer);
      numbers.push_back(static_cast<double>(*integer));
    } else if (const auto number = element.value_exact<double>()) {
      numbers.push_back(*number);
    } else if (const auto text = element.value_exact<std::string>()) {
      texts.push_back(*text);
    } else if (const auto words = element.is_array() ? joined(*element.as_array()) : std::nullopt) {
      texts.push_back(*words);
    } else {
      return UnsupportedValue{"a list with an element that is neither a number nor a string"};
    }
  }
  if (!numbers.empty() && !texts.empty()) return UnsupportedValue{"a list of mixed types"};
  if (integers.size() < numbers.size()) return Value(std::move(numbers));
  if (!integers.empty()) return Value(std::move(integers));
  return Value(std::move(texts));
}

std::variant<Value, UnsupportedValue> read_value(const toml::node& node) {
  if (const auto truth = node.value_exact<bool>()) return Value(*truth);
  if (const auto integer = node.value_exact<int64_t>()) return Value(*integer);
  if (const auto number = node.value_exact<double>()) return Value(*number);
  if (const auto text = node.value_exact<std::string>()) return Value(*text);
  if (const toml::array* list = node.as_array()) return read_list(*list);
  return UnsupportedValue{node.is_table() ? "a table" : "a date or time"};
}

bool has_lists(const toml::node& node) {
  const toml::array* list = node.as_array();
  return list != nullptr && std::any_of(list->begin(), list->end(),
                                        [](const toml::node& element) { return element.is_array(); });
}

toml::table parse_table(std::string_view text, const std::string& file_name) {
  try {
    return toml::parse(text, file_name);
  } catch (const toml::parse_error& error) {
    fail(file_name, error.source().begin.line, fmt::format("not TOML: {}", error.description()));
  }
}

}  // namespace

const Value& value_for(const FieldInfo& field, const Assignment& assignment, const std::string& context) {
  if (const auto* unsupported = std::get_if<UnsupportedValue>(&assignment.value))
    refuse_type(field, unsupported->what, context);
  if (assignment.nested && !field.spec.nested) refuse_type(field, "a list of lists", context);
  return std::get<Value>(assignment.value);
}

std::vector<Assignment> read_toml(std::string_view text, const std::string& file_name) {
  std::vector<Assignment> assignments;
  for (const auto& [name, node] : parse_table(text, file_name)) {
    const auto line = node.source().begin.line;
    const toml::table* section = node.as_table();
    if (section == nullptr) {
      fail(file_name, line,
           fmt::format("'{}' stands outside every section: write [section] above it", name.str()));
    }
    for (const auto& [key, value] : *section) {
      assignments.push_back({.section = std::string(name.str()),
                             .key = std::string(key.str()),
                             .value = read_value(value),
                             .nested = has_lists(value),
                             .line = static_cast<int>(key.source().begin.line)});
    }
    if (section->empty()) {
      assignments.push_back(
          {.section = std::string(name.str()), .key = "", .value = {}, .line = static_cast<int>(line)});
    }
  }
  std::stable_sort(assignments.begin(), assignments.end(),
                   [](const Assignment& a, const Assignment& b) { return a.line < b.line; });
  return assignments;
}

}  // namespace furrow::config
