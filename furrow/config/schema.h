// The type-erased table behind parsing, overrides, help and the recipe: one row per key.
//
// Every kind of file has a root struct whose sections() lists its sections: Config, ClusterFile.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/names.h"
#include "furrow/config/config.h"
#include "furrow/config/field.h"

namespace furrow::config {

using Value = std::variant<bool, int64_t, double, std::string, std::vector<int64_t>, std::vector<std::string>,
                           std::vector<double>>;

// "true or false", "an integer", "a number", "a string", "a list of integers", "a list of strings", "a list
// of numbers"; in order of Value.
std::string_view type_name(const Value& value);
std::string to_toml(const Value& value);  // as the right-hand side of a TOML line

// What a key is, whatever the file it stands in.
struct FieldInfo {
  std::string section;
  std::string key;
  FieldSpec spec;
  Value default_value;  // its alternative is the type of the key

  std::string name() const { return section + "." + key; }
};

template <class Root>
struct FieldOf : FieldInfo {
  std::function<Value(const Root&)> get;
  std::function<void(Root&, const Value&)> set;  // REQUIRES: the same alternative
};

template <class Root>
struct SectionOf {
  std::string name;
  std::string doc;
  std::vector<FieldOf<Root>> fields;
};

using Field = FieldOf<Config>;
using Section = SectionOf<Config>;

// Visits the keys of one section.
template <class Root, class S>
struct FieldVisitor {
  S Root::* section;
  SectionOf<Root>& out;

  template <class T>
  void operator()(std::string_view key, T S::* member, const FieldSpec& spec) {
    const auto part = section;
    FieldOf<Root> field;
    field.section = out.name;
    field.key = std::string(key);
    field.spec = spec;
    field.default_value = Value(S{}.*member);
    field.get = [part, member](const Root& root) { return Value(root.*part.*member); };
    field.set = [part, member](Root& root, const Value& value) { root.*part.*member = std::get<T>(value); };
    out.fields.push_back(std::move(field));
  }
};

template <class Root>
struct SectionVisitor {
  std::vector<SectionOf<Root>>& out;

  template <class S>
  void operator()(std::string_view name, S Root::* section, std::string_view doc) {
    out.push_back({std::string(name), std::string(doc), {}});
    FieldVisitor<Root, S> visitor{section, out.back()};
    S::fields(visitor);
  }
};

// The table of a root struct.
template <class Root>
std::vector<SectionOf<Root>> make_schema() {
  std::vector<SectionOf<Root>> sections;
  SectionVisitor<Root> visitor{sections};
  Root::sections(visitor);
  return sections;
}

const std::vector<Section>& schema();
const Field* find_field(std::string_view name);  // "training.steps"; null when unknown

// Error{invalid_argument} names the nearest section; `context` goes in front.
template <class Root>
void require_section(const std::vector<SectionOf<Root>>& sections, std::string_view section,
                     const std::string& context) {
  std::vector<std::string> names;
  for (const SectionOf<Root>& each : sections) {
    if (each.name == section) return;
    names.push_back(each.name);
  }
  throw Error(ErrorCode::kInvalidArgument, context + unknown_name_message("section", section, names));
}

// The key of a section.  Error{invalid_argument} names the nearest; `context` goes in front.
template <class Root>
const FieldOf<Root>& require_field(const std::vector<SectionOf<Root>>& sections, std::string_view section,
                                   std::string_view key, const std::string& context) {
  require_section(sections, section, context);
  std::vector<std::string> keys;
  std::string elsewhere;  // the same key in another section
  for (const SectionOf<Root>& each : sections) {
    for (const FieldOf<Root>& field : each.fields) {
      if (each.name == section && field.key == key) return field;
      if (each.name == section) keys.push_back(field.key);
      if (field.key == key && elsewhere.empty()) elsewhere = " (" + field.name() + " is a key)";
    }
  }
  const std::string what = "key in [" + std::string(section) + "]";
  throw Error(ErrorCode::kInvalidArgument, context + unknown_name_message(what, key, keys) + elsewhere);
}

// What the spec allows.  Error{invalid_argument}, `context` in front.
void check_value(const FieldInfo& field, const Value& value, const std::string& context);

// `value` as the field takes it: of its type (an integer will do for a number, an empty list for any list),
// with the environment filled in, checked.  Error{invalid_argument}, `context` in front.
Value accept_value(const FieldInfo& field, const Value& value, const std::string& context);
[[noreturn]] void refuse_type(const FieldInfo& field, std::string_view got, const std::string& context);

// A condition of only_if: the key has one of the values ('='), is above the only one ('>'), or is a list with
// an entry that holds one of them ('~').
struct Condition {
  std::string_view key;
  char sign = '=';
  std::vector<std::string> values;
};
// One of them must hold; none where there is nothing to hold.
std::vector<Condition> conditions_of(std::string_view only_if);

bool holds(const Condition& condition, const Config& config);

// The condition of only_if, true where there is none.
bool applies(const Field& field, const Config& config);

}  // namespace furrow::config
