// The type-erased table behind parsing, overrides, help and the recipe: one row per key.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "furrow/config/config.h"
#include "furrow/config/field.h"

namespace furrow::config {

using Value =
    std::variant<bool, int64_t, double, std::string, std::vector<int64_t>, std::vector<std::string>>;

// "true or false", "an integer", "a number", "a string", "a list of integers", "a list of strings"; in order
// of Value.
std::string_view type_name(const Value& value);
std::string to_toml(const Value& value);  // as the right-hand side of a TOML line

struct Field {
  std::string section;
  std::string key;
  FieldSpec spec;
  Value default_value;  // its alternative is the type of the key
  std::function<Value(const Config&)> get;
  std::function<void(Config&, const Value&)> set;  // REQUIRES: the same alternative

  std::string name() const { return section + "." + key; }
};

struct Section {
  std::string name;
  std::string doc;
  std::vector<Field> fields;
};

const std::vector<Section>& schema();
const Field* find_field(std::string_view name);  // "training.steps"; null when unknown
// The same, with Error{invalid_argument} that names the nearest; `context` goes in front.
const Field& require_field(std::string_view section, std::string_view key, const std::string& context);

// What the spec allows.  Error{invalid_argument}, `context` in front.
void check_value(const Field& field, const Value& value, const std::string& context);

// The condition of only_if, true where there is none.
bool applies(const Field& field, const Config& config);

}  // namespace furrow::config
