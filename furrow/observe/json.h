// Reading JSON: a small value tree, so that the parser library stays in json.cc.  Writing is base/text.h's
// JsonWriter.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace furrow::observe {

struct JsonMember;

struct JsonValue {
  using Array = std::vector<JsonValue>;
  using Object = std::vector<JsonMember>;  // in the order of the text
  std::variant<std::monostate, bool, int64_t, uint64_t, double, std::string, Array, Object> value;

  const JsonValue* find(std::string_view key) const;  // nullptr when absent, or when this is no object
  bool is_null() const { return std::holds_alternative<std::monostate>(value); }
  std::optional<double> number() const;    // any number; nothing for other kinds
  std::optional<int64_t> integer() const;  // a whole number that fits
  const std::string* text() const { return std::get_if<std::string>(&value); }
  const Object* object() const { return std::get_if<Object>(&value); }
};

struct JsonMember {
  std::string name;
  JsonValue value;
};

// Error{data_loss} says where the text breaks off or goes wrong; nesting beyond 64 levels is refused.
JsonValue parse_json(std::string_view text);

}  // namespace furrow::observe
