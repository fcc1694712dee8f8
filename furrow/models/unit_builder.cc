#include "furrow/models/unit_builder.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>

#include "furrow/base/error.h"

namespace furrow::models {
namespace {

const plan::Attribute& find(const plan::Unit& unit, const std::string& key) {
  auto it = unit.attributes.find(key);
  if (it == unit.attributes.end()) unit_error(unit, fmt::format("attribute '{}' is missing", key));
  return it->second;
}

template <class T>
T typed(const plan::Unit& unit, const std::string& key, std::string_view type) {
  const T* value = std::get_if<T>(&find(unit, key));
  if (value == nullptr) unit_error(unit, fmt::format("attribute '{}' must be {}", key, type));
  return *value;
}

int64_t integer(const plan::Unit& unit, const std::string& key, int64_t least) {
  constexpr int64_t kMost = int64_t{1} << 24;
  const auto value = typed<int64_t>(unit, key, "an integer");
  if (value < least || value > kMost) {
    unit_error(unit, fmt::format("attribute '{}' is {}: it must be {} to {}", key, value, least, kMost));
  }
  return value;
}

}  // namespace

void unit_error(const plan::Unit& unit, const std::string& message) {
  throw Error(ErrorCode::kInvalidArgument, fmt::format("unit {} ({}): {}", unit.name, unit.kind, message));
}

int64_t number_bytes(const plan::Unit& unit) { return static_cast<int64_t>(dtype_size(unit.compute)); }

int64_t border_bytes(const plan::Unit& unit, const plan::TensorSpec& border) {
  return border.bytes_per_sample() / static_cast<int64_t>(dtype_size(border.dtype)) * number_bytes(unit);
}

bool flag(const plan::Unit& unit, const std::string& key) { return typed<bool>(unit, key, "true or false"); }
int64_t size_of(const plan::Unit& unit, const std::string& key) { return integer(unit, key, 1); }
int64_t count_of(const plan::Unit& unit, const std::string& key) { return integer(unit, key, 0); }
std::string text(const plan::Unit& unit, const std::string& key) {
  return typed<std::string>(unit, key, "a string");
}

double probability(const plan::Unit& unit, const std::string& key) {
  const auto value = typed<double>(unit, key, "a real number");
  if (!(value >= 0 && value < 1)) {
    unit_error(unit, fmt::format("attribute '{}' is {}: it must be at least 0 and below 1", key, value));
  }
  return value;
}

double positive(const plan::Unit& unit, const std::string& key) {
  const auto value = typed<double>(unit, key, "a real number");
  if (!(value > 0 && std::isfinite(value)))
    unit_error(unit, fmt::format("attribute '{}' is {}: it must be finite and above 0", key, value));
  return value;
}

std::string activation(const plan::Unit& unit) {
  std::string name = text(unit, "activation");
  if (name != "none" && name != "relu" && name != "gelu" && name != "leaky_relu" && name != "sigmoid") {
    unit_error(unit,
               fmt::format("unknown activation '{}': known: gelu, leaky_relu, none, relu, sigmoid", name));
  }
  return name;
}

void require_input(const plan::Unit& unit, DType dtype, size_t dims, std::string_view form) {
  if (unit.input.dtype == dtype && unit.input.shape.size() == dims) return;
  unit_error(unit, fmt::format("it reads {} {}, not {} {}", to_string(dtype), form,
                               to_string(unit.input.dtype), to_string(unit.input.shape)));
}

std::string parameter_name(const plan::Unit& unit, std::string_view suffix) {
  const std::string prefix = unit.attributes.contains("prefix") ? text(unit, "prefix") : unit.name;
  return prefix.empty() ? std::string(suffix) : fmt::format("{}.{}", prefix, suffix);
}

void add_parameter(plan::Unit& unit, std::string_view suffix, Shape shape, plan::Init init) {
  plan::Parameter parameter;
  parameter.name = parameter_name(unit, suffix);
  // Norms and biases are the parameters of one dim; they do not decay.
  parameter.group = shape.size() >= 2 ? plan::ParameterGroup::kDecay : plan::ParameterGroup::kNoDecay;
  parameter.shape = std::move(shape);
  parameter.init = init;
  unit.parameters.push_back(std::move(parameter));
}

void add_batch_norm(plan::Unit& unit, std::string_view suffix, int64_t channels) {
  const double momentum = positive(unit, "momentum");
  add_parameter(unit, fmt::format("{}.weight", suffix), {channels}, ones());
  add_parameter(unit, fmt::format("{}.bias", suffix), {channels}, zeros());
  const auto name = [&](const char* last) {
    return parameter_name(unit, fmt::format("{}.{}", suffix, last));
  };
  using enum plan::Statistic::Fold;
  unit.statistics.push_back({name("running_mean"), {channels}, kAverage, momentum, 0});
  unit.statistics.push_back({name("running_var"), {channels}, kAverage, momentum, 1});
  unit.statistics.push_back({name("num_batches_tracked"), {}, kCount});
}

plan::Init uniform_fan_in(int64_t fan_in) {
  return {plan::Init::Kind::kUniform, 1.0 / std::sqrt(static_cast<double>(fan_in))};
}

plan::Init normal(double std) { return {plan::Init::Kind::kNormal, std}; }

}  // namespace furrow::models
