#include "furrow/models/unit_builder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/names.h"
#include "furrow/plan/tensor_cut.h"

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

int64_t numbers_of(const plan::TensorSpec& border) {
  return border.bytes_per_sample() / static_cast<int64_t>(dtype_size(border.dtype));
}

int64_t border_bytes(const plan::Unit& unit, const plan::TensorSpec& border) {
  return numbers_of(border) * number_bytes(unit);
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

namespace {

struct ActivationForm {
  std::string_view name;
  bool slope, in_product;
};
constexpr ActivationForm kActivations[] = {
    {"none", false, true},     {"relu", false, true},     {"gelu", true, true},
    {"gelu_tanh", true, true}, {"silu", true, false},     {"softplus", true, false},
    {"tanh", false, false},    {"sigmoid", false, false}, {"leaky_relu", false, false},
};

}  // namespace

std::string activation(const plan::Unit& unit) {
  std::string name = text(unit, "activation");
  std::vector<std::string> known;
  for (const ActivationForm& form : kActivations) {
    if (form.name == name) return name;
    known.emplace_back(form.name);
  }
  unit_error(unit, unknown_name_message("activation", name, known));
}

bool keeps_slope(std::string_view activation) {
  return std::ranges::any_of(kActivations, [activation](const ActivationForm& form) {
    return form.name == activation && form.slope;
  });
}

bool in_product(std::string_view activation) {
  return std::ranges::any_of(kActivations, [activation](const ActivationForm& form) {
    return form.name == activation && form.in_product;
  });
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

void add_cut_parameter(plan::Unit& unit, std::string_view suffix, Shape shape, plan::Init init, int axis,
                       std::vector<int64_t> segments) {
  add_parameter(unit, suffix, std::move(shape), init);
  unit.parameters.back().tensor_axis = axis;
  unit.parameters.back().tensor_segments = std::move(segments);
}

void add_collective(plan::Unit& unit, plan::UnitCollective::Phase phase, plan::UnitCollective::Op op,
                    int64_t bytes_per_sample) {
  plan::UnitCollective collective;
  collective.phase = phase;
  collective.op = op;
  collective.bytes_per_sample = bytes_per_sample;
  unit.collectives.push_back(collective);
}

void add_position_collectives(plan::Unit& unit, int64_t width, int branches) {
  using enum plan::UnitCollective::Phase;
  using enum plan::UnitCollective::Op;
  const int64_t numbers = unit.input.shape[1] * width;
  for (const auto phase : {kForward, kBackwardInput}) {
    for (int i = 0; i < branches; ++i) {
      add_collective(unit, phase, kAllGather, numbers * number_bytes(unit));
      add_collective(unit, phase, kReduceScatter, numbers * kFloatBytes);
    }
  }
}

void add_replicated_sum(plan::Unit& unit) {
  for (plan::Parameter& parameter : unit.parameters) parameter.summed = parameter.tensor_axis < 0;
  plan::declare_gradient_sum(&unit);
}

// Each rank looks up the rows that it has; the sums are scattered over the positions.  Backward gathers: the
// gradient of a row comes from every position.
void cut_embedding(plan::Unit& unit, int64_t width) {
  using enum plan::UnitCollective::Phase;
  const int64_t time = unit.input.shape[1], numbers = time * width;
  unit.tensor = {true, {{"positions", time}}, 0, unit.deferred_bytes};
  unit.output.tensor_axis = 1;
  add_collective(unit, kForward, plan::UnitCollective::Op::kReduceScatter, numbers * number_bytes(unit));
  add_collective(unit, kBackwardInput, plan::UnitCollective::Op::kAllGather, numbers * number_bytes(unit));
}

void cut_head(plan::Unit& unit, int64_t width) {
  using enum plan::UnitCollective::Phase;
  using enum plan::UnitCollective::Op;
  const int64_t time = unit.input.shape[1], numbers = time * width;
  unit.tensor = {true, {{"positions", time}}, numbers * number_bytes(unit), numbers * number_bytes(unit)};
  unit.input.tensor_axis = 1;
  unit.output.tensor_axis = 2;
  add_collective(unit, kForward, kAllGather, numbers * number_bytes(unit));
  add_collective(unit, kBackwardInput, kReduceScatter, numbers * kFloatBytes);
  add_replicated_sum(unit);
  add_cross_entropy(unit, time);
}

void add_cross_entropy(plan::Unit& unit, int64_t rows) {
  using enum plan::UnitCollective::Phase;
  using enum plan::UnitCollective::Op;
  add_collective(unit, kLoss, kAllReduce, rows * kFloatBytes);       // the largest logit of each row
  add_collective(unit, kLoss, kAllReduce, rows * 4 * kDoubleBytes);  // four sums of each row
  unit.loss_scratch.sample_bytes = rows * kFloatBytes;               // the losses
}

void add_batch_norm(plan::Unit& unit, std::string_view suffix, int64_t channels) {
  const double momentum = positive(unit, "momentum");
  if (momentum > 1)
    unit_error(unit, fmt::format("attribute 'momentum' is {}: it must be at most 1", momentum));
  const auto part = [&](const char* last) {
    return suffix.empty() ? std::string(last) : fmt::format("{}.{}", suffix, last);
  };
  add_parameter(unit, part("weight"), {channels}, ones());
  add_parameter(unit, part("bias"), {channels}, zeros());
  const auto name = [&](const char* last) { return parameter_name(unit, part(last)); };
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
