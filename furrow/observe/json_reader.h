// Fields of a JSON object of ours by name, for the readers of this module's files.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>

#include "furrow/base/error.h"
#include "furrow/observe/json.h"

namespace furrow::observe {

// Readers of one key each: absent leaves the field as it is, another type is damage.
class JsonReader {
 public:
  explicit JsonReader(const JsonValue& json) : json_(json) {}

  void read(std::string_view key, std::string& out) const {
    if (const JsonValue* value = json_.find(key)) {
      if (value->text() == nullptr) wrong(key, "text");
      out = *value->text();
    }
  }
  void read(std::string_view key, double& out) const {
    if (const JsonValue* value = json_.find(key)) out = number(key, *value);
  }
  void read(std::string_view key, std::optional<double>& out) const {
    if (const JsonValue* value = json_.find(key)) out = number(key, *value);
  }
  void read(std::string_view key, int64_t& out) const {
    if (const JsonValue* value = json_.find(key)) out = integer(key, *value);
  }
  void read(std::string_view key, std::optional<int64_t>& out) const {
    if (const JsonValue* value = json_.find(key)) out = integer(key, *value);
  }
  void read(std::string_view key, int& out) const {
    int64_t wide = out;
    read(key, wide);
    out = static_cast<int>(wide);
  }
  void read(std::string_view key, uint64_t& out) const {
    const JsonValue* value = json_.find(key);
    if (value == nullptr) return;
    if (const auto* large = std::get_if<uint64_t>(&value->value)) {
      out = *large;
    } else {
      out = static_cast<uint64_t>(integer(key, *value));
    }
  }

 private:
  static double number(std::string_view key, const JsonValue& value) {
    if (value.is_null()) return std::numeric_limits<double>::quiet_NaN();
    if (!value.number()) wrong(key, "a number");
    return *value.number();
  }
  static int64_t integer(std::string_view key, const JsonValue& value) {
    if (!value.integer()) wrong(key, "a whole number");
    return *value.integer();
  }
  [[noreturn]] static void wrong(std::string_view key, std::string_view wanted) {
    throw Error(ErrorCode::kDataLoss, fmt::format("`{}` of the summary is not {}", key, wanted));
  }
  const JsonValue& json_;
};

}  // namespace furrow::observe
