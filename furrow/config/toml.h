// TOML text as a flat list of assignments.  The only user of toml++.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "furrow/config/schema.h"

namespace furrow::config {

// What is no value of ours: "a date", "a list of mixed types", ...
struct UnsupportedValue {
  std::string what;
};

struct Assignment {
  std::string section;
  std::string key;  // "" for a section without keys
  std::variant<Value, UnsupportedValue> value;
  bool nested = false;  // a list with lists in it, each joined with spaces
  int line = 0;
};

// The value for a key of that kind.  Error{invalid_argument}, `context` in front: it is none of ours, or
// nested where the key takes no list of lists.
const Value& value_for(const FieldInfo& field, const Assignment& assignment, const std::string& context);

// In the order of the lines.  Error{invalid_argument}: "file:line: ..." for text that is not TOML, a key
// outside every section, or something that is not a section at the top level.  Thread safe.
std::vector<Assignment> read_toml(std::string_view text, const std::string& file_name);

}  // namespace furrow::config
