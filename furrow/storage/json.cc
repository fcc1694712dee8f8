#include "furrow/storage/json.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <set>

#include "furrow/base/error.h"

namespace furrow::storage {

// Receives nlohmann's events and builds the value.
class JsonBuilder : public nlohmann::json_sax<nlohmann::json> {
 public:
  Json take() { return std::move(root_); }

  bool null() override { return add(Json()); }
  bool boolean(bool value) override { return add(Json(value)); }
  bool number_integer(int64_t value) override { return add(Json(value)); }
  bool number_unsigned(uint64_t value) override {
    return value <= INT64_MAX ? add(Json(static_cast<int64_t>(value))) : add(Json(value));
  }
  bool number_float(double value, const std::string&) override { return add(Json(value)); }
  bool string(std::string& value) override { return add(Json(std::move(value))); }
  bool binary(nlohmann::json::binary_t&) override { return false; }

  bool start_object(size_t) override { return open(Json(Json::Object{})); }
  bool end_object() override { return close(); }
  bool start_array(size_t) override { return open(Json(Json::List{})); }
  bool end_array() override { return close(); }

  bool key(std::string& name) override {
    if (!keys_.back().insert(name).second) {
      throw Error(ErrorCode::kDataLoss, fmt::format("JSON has the key '{}' twice in one object", name));
    }
    names_.back() = std::move(name);
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    throw Error(ErrorCode::kDataLoss, fmt::format("not JSON, at byte {}", position));
  }

 private:
  static constexpr size_t kDeepest = 64;

  bool add(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
    } else if (auto* list = std::get_if<Json::List>(&open_.back().value_)) {
      list->push_back(std::move(value));
    } else {
      std::get<Json::Object>(open_.back().value_).emplace_back(std::move(names_.back()), std::move(value));
    }
    return true;
  }

  bool open(Json container) {
    if (open_.size() >= kDeepest) throw Error(ErrorCode::kDataLoss, "JSON is nested too deep");
    open_.push_back(std::move(container));
    names_.emplace_back();
    keys_.emplace_back();
    return true;
  }

  bool close() {
    Json finished = std::move(open_.back());
    open_.pop_back();
    names_.pop_back();
    keys_.pop_back();
    return add(std::move(finished));
  }

  Json root_;
  std::vector<Json> open_;
  std::vector<std::string> names_;           // the key that waits for its value, per open container
  std::vector<std::set<std::string>> keys_;  // seen, per open container
};

namespace {

[[noreturn]] void expected(std::string_view what) {
  throw Error(ErrorCode::kDataLoss, fmt::format("expected {} in JSON", what));
}

}  // namespace

const std::string& Json::string() const {
  const auto* value = std::get_if<std::string>(&value_);
  if (value == nullptr) expected("a string");
  return *value;
}

int64_t Json::integer() const {
  const auto* value = std::get_if<int64_t>(&value_);
  if (value == nullptr) expected("an integer");
  return *value;
}

uint64_t Json::unsigned_integer() const {
  if (const auto* large = std::get_if<uint64_t>(&value_)) return *large;
  const auto* value = std::get_if<int64_t>(&value_);
  if (value == nullptr || *value < 0) expected("an integer that is not negative");
  return static_cast<uint64_t>(*value);
}

double Json::number() const {
  if (const auto* value = std::get_if<double>(&value_)) return *value;
  if (const auto* value = std::get_if<int64_t>(&value_)) return static_cast<double>(*value);
  if (const auto* value = std::get_if<uint64_t>(&value_)) return static_cast<double>(*value);
  expected("a number");
}

bool Json::boolean() const {
  const auto* value = std::get_if<bool>(&value_);
  if (value == nullptr) expected("true or false");
  return *value;
}

bool Json::is_number() const {
  return std::holds_alternative<double>(value_) || std::holds_alternative<int64_t>(value_) ||
         std::holds_alternative<uint64_t>(value_);
}

const Json::List& Json::list() const {
  const auto* value = std::get_if<List>(&value_);
  if (value == nullptr) expected("a list");
  return *value;
}

const Json::Object& Json::object() const {
  const auto* value = std::get_if<Object>(&value_);
  if (value == nullptr) expected("an object");
  return *value;
}

const Json* Json::find(std::string_view key) const {
  for (const auto& [name, value] : object()) {
    if (name == key) return &value;
  }
  return nullptr;
}

const Json& Json::at(std::string_view key) const {
  const Json* value = find(key);
  if (value == nullptr) expected(fmt::format("the key '{}'", key));
  return *value;
}

std::vector<int64_t> Json::integers() const {
  std::vector<int64_t> result;
  for (const Json& element : list()) result.push_back(element.integer());
  return result;
}

Json parse_json(std::string_view text) {
  // nlohmann takes a zero byte for the end of the text.
  if (const size_t zero = text.find('\0'); zero != std::string_view::npos) {
    throw Error(ErrorCode::kDataLoss, fmt::format("not JSON, at byte {}", zero));
  }
  JsonBuilder builder;
  nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

}  // namespace furrow::storage
