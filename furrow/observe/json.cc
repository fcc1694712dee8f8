#include "furrow/observe/json.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "furrow/base/error.h"

namespace furrow::observe {
namespace {

constexpr int kMaxDepth = 64;

// Builds the tree while the library scans, so that depth is checked before it is reached.
class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  bool null() override { return put({}); }
  bool boolean(bool value) override { return put({value}); }
  bool number_integer(int64_t value) override { return put({value}); }
  bool number_unsigned(uint64_t value) override {
    if (value <= static_cast<uint64_t>(INT64_MAX)) return put({static_cast<int64_t>(value)});
    return put({value});
  }
  bool number_float(double value, const std::string&) override { return put({value}); }
  bool string(std::string& value) override { return put({std::move(value)}); }
  bool binary(nlohmann::json::binary_t&) override { return false; }
  bool start_object(size_t) override { return open({JsonValue::Object{}}); }
  bool start_array(size_t) override { return open({JsonValue::Array{}}); }
  bool key(std::string& name) override {
    keys_.push_back(std::move(name));
    return true;
  }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    error_ = fmt::format("not JSON at byte {}", position);
    return false;
  }

  JsonValue result;
  const std::string& error() const { return error_; }

 private:
  bool open(JsonValue value) {
    if (open_.size() >= kMaxDepth) {
      error_ = fmt::format("JSON nested deeper than {} levels", kMaxDepth);
      return false;
    }
    open_.push_back(std::move(value));
    return true;
  }
  bool close() {
    JsonValue value = std::move(open_.back());
    open_.pop_back();
    return put(std::move(value));
  }
  bool put(JsonValue value) {
    if (open_.empty()) {
      result = std::move(value);
    } else if (auto* array = std::get_if<JsonValue::Array>(&open_.back().value)) {
      array->push_back(std::move(value));
    } else {
      std::get<JsonValue::Object>(open_.back().value).push_back({std::move(keys_.back()), std::move(value)});
      keys_.pop_back();
    }
    return true;
  }

  std::vector<JsonValue> open_;
  std::vector<std::string> keys_;
  std::string error_;
};

}  // namespace

const JsonValue* JsonValue::find(std::string_view key) const {
  const Object* members = object();
  if (members == nullptr) return nullptr;
  for (const auto& [name, member] : *members) {
    if (name == key) return &member;
  }
  return nullptr;
}

std::optional<double> JsonValue::number() const {
  if (const auto* whole = std::get_if<int64_t>(&value)) return static_cast<double>(*whole);
  if (const auto* large = std::get_if<uint64_t>(&value)) return static_cast<double>(*large);
  if (const auto* real = std::get_if<double>(&value)) return *real;
  return std::nullopt;
}

std::optional<int64_t> JsonValue::integer() const {
  if (const auto* whole = std::get_if<int64_t>(&value)) return *whole;
  return std::nullopt;
}

JsonValue parse_json(std::string_view text) {
  Builder builder;
  if (!nlohmann::json::sax_parse(text, &builder)) {
    throw Error(ErrorCode::kDataLoss, builder.error().empty() ? "not JSON" : builder.error());
  }
  return std::move(builder.result);
}

}  // namespace furrow::observe
