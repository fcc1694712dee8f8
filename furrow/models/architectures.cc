#include "furrow/models/architectures.h"

#include <fmt/format.h>

#include <array>
#include <string>
#include <utility>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/names.h"
#include "furrow/config/model.h"
#include "furrow/models/chains.h"
#include "furrow/models/kinds.h"
#include "furrow/models/teacher.h"

namespace furrow::models {
namespace {

constexpr std::array<Architecture, 10> kArchitectures = {{
    {"mlp", &describe_mlp},
    {"convnet", &describe_convnet},
    {"gpt", &describe_gpt},
    {"llama", &describe_llama},
    {"rnn", &describe_rnn_model},
    {"lstm", &describe_lstm_model},
    {"resnet20", &describe_resnet20},
    {"resnet18", &describe_resnet18},
    {"gan", &describe_gan},
    {"blocks", &describe_blocks},
}};

// A teacher beside the model is told from it by its names alone: its weights are never loaded as the model's.
void check_names(const config::Model& model, const plan::ModelSpec& spec) {
  const auto check = [&](const plan::Unit& unit, const std::string& name) {
    if (!is_teachers(name)) return;
    model_error(model, fmt::format("unit {}: {}: names that begin with \"{}\" are those of a teacher "
                                   "([distillation]): give the unit another name",
                                   unit.name, name, kTeacherPrefix));
  };
  for (const plan::Unit& unit : spec.units) {
    for (const plan::Parameter& parameter : unit.parameters) check(unit, parameter.name);
    for (const plan::Statistic& statistic : unit.statistics) check(unit, statistic.name);
  }
}

}  // namespace

std::span<const Architecture> architectures() { return kArchitectures; }

const Architecture& find_architecture(const std::string& name, std::span<const Architecture> extra) {
  std::vector<std::string> known;
  for (std::span<const Architecture> rows : {extra, std::span<const Architecture>(kArchitectures)}) {
    for (const Architecture& row : rows) {
      if (row.name == name) return row;
      known.emplace_back(row.name);
    }
  }
  throw Error(ErrorCode::kInvalidArgument,
              "[model] name: " + unknown_name_message("architecture", name, known));
}

plan::ModelSpec describe(const config::Model& model, const DataShape& data,
                         std::span<const Architecture> extra) {
  const Architecture& architecture = find_architecture(model.name, extra);
  if (data.classes < 1) model_error(model, fmt::format("the data has {} classes", data.classes));
  DataShape shape = data;
  if (model.vocab_size > 0) {
    if (model.vocab_size < data.classes) {
      model_error(model,
                  fmt::format("vocab_size = {}, but the data has {} tokens", model.vocab_size, data.classes));
    }
    shape.classes = model.vocab_size;
  }
  plan::ModelSpec spec = architecture.describe(model, shape);
  if (spec.architecture.empty()) spec.architecture = std::string(architecture.name);
  plan::validate(spec);
  check_names(model, spec);
  return spec;
}

void model_error(const config::Model& model, const std::string& message) {
  throw Error(ErrorCode::kInvalidArgument, fmt::format("[model] name = {}: {}", model.name, message));
}

void require_samples(const config::Model& model, const DataShape& data) {
  if (data.input.dtype == DType::kF32 && data.input.shape.size() >= 2) return;
  model_error(model, fmt::format("it reads float32 samples, not {} {}: use a data set of images",
                                 to_string(data.input.dtype), to_string(data.input.shape)));
}

void require_tokens(const config::Model& model, const DataShape& data) {
  if (data.input.dtype == DType::kI64 && data.input.shape.size() == 2) return;
  model_error(model,
              fmt::format("it reads tokens, int64 [-1, time], not {} {}: use [training] dataset = text",
                          to_string(data.input.dtype), to_string(data.input.shape)));
}

void append(plan::ModelSpec* spec, std::string name, std::string_view kind, plan::Attributes attributes) {
  FURROW_CHECK(!spec->units.empty(), "append needs a unit before it");
  plan::TensorSpec input = spec->units.back().output;
  spec->units.push_back(make_unit(std::move(name), kind, std::move(attributes), std::move(input)));
}

}  // namespace furrow::models
