// JSON as a value, for the headers and manifests that this module reads.  Strict: no duplicate keys, no
// comments, nesting at most 64 deep.  Reading is by nlohmann-json in json.cc; writing is base/text.h.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace furrow::storage {

// Accessors throw Error{data_loss} that says what was expected; callers add the file as context.  Immutable.
class Json {
 public:
  using List = std::vector<Json>;
  using Object = std::vector<std::pair<std::string, Json>>;  // in the order of the text

  Json() = default;
  template <class T>
  explicit Json(T value) : value_(std::move(value)) {}

  const std::string& string() const;
  int64_t integer() const;
  uint64_t unsigned_integer() const;
  double number() const;  // of any kind
  bool boolean() const;
  bool is_number() const;
  bool is_string() const { return std::holds_alternative<std::string>(value_); }
  bool is_list() const { return std::holds_alternative<List>(value_); }
  const List& list() const;
  const Object& object() const;

  const Json* find(std::string_view key) const;  // REQUIRES: an object; null when absent
  const Json& at(std::string_view key) const;    // Error{data_loss} when it is absent or this is no object
  std::vector<int64_t> integers() const;         // a list of integers

  friend bool operator==(const Json&, const Json&) = default;

 private:
  friend class JsonBuilder;
  std::variant<std::monostate, bool, int64_t, uint64_t, double, std::string, List, Object> value_;
};

Json parse_json(std::string_view text);  // Error{data_loss} with the position

}  // namespace furrow::storage
