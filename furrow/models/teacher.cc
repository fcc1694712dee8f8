#include "furrow/models/teacher.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/config/config.h"
#include "furrow/models/block_memory.h"
#include "furrow/models/unit_builder.h"
#include "furrow/plan/topology.h"

namespace furrow::models {
namespace {

void require_chain(const plan::ModelSpec& spec, std::string_view what) {
  if (plan::is_one_chain(spec)) return;
  throw Error(
      ErrorCode::kInvalidArgument,
      fmt::format("[distillation]: the {} is {}, which is more than one chain of units: take one that "
                  "answers by itself, such as mlp, convnet, resnet20, gpt or a list of units",
                  what, spec.architecture));
}

void freeze(plan::Unit* unit) {
  const auto renamed = [](std::string& name) {
    if (!name.empty()) name = std::string(kTeacherPrefix) + name;
  };
  renamed(unit->name);
  for (plan::Parameter& parameter : unit->parameters) {
    renamed(parameter.name);
    renamed(parameter.tied_to);
    parameter.rule = {};
    parameter.rule.frozen = true;
  }
  for (plan::Statistic& statistic : unit->statistics) renamed(statistic.name);
  unit->inference = true;
  unit->flops.backward_input = unit->flops.backward_weight = 0;
  unit->deferred_bytes = unit->kept_saved_bytes = unit->kept_grad_bytes = 0;
}

}  // namespace

namespace {

// Of the embeddings that `spec` has one for each; 0: it has none.
int64_t learned_positions(const plan::ModelSpec& spec) {
  int64_t least = 0;
  for (const plan::Unit& unit : spec.units) {
    if (unit.kind != "token_embedding") continue;
    const auto positions = plan::attribute<int64_t>(unit, "context");
    least = least == 0 ? positions : std::min(least, positions);
  }
  return least;
}

// The network over samples as it was trained on, then over these.
plan::ModelSpec describe_over(config::Model model, const DataShape& data, int64_t trained,
                              std::span<const Architecture> extra) {
  DataShape own = data;
  own.input.shape[1] = trained;
  const int64_t positions = learned_positions(describe(model, own, extra)), time = data.input.shape[1];
  if (positions > 0 && positions < time) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("it has learned {} positions (its [model] context, or the seq_len of its training), "
                    "but samples here have {} tokens: set [training] seq_len to {} or less, or train the "
                    "teacher with [model] context = {} or more",
                    positions, time, positions, time));
  }
  model.context = positions;
  return describe(model, data, extra);
}

}  // namespace

plan::ModelSpec describe_teacher(const std::string& table, const DataShape& data, const Shape& trained,
                                 const PrecisionPolicy& precision, std::span<const Architecture> extra) {
  if (table.starts_with("name = \"gan\""))
    throw Error(ErrorCode::kInvalidArgument, "it is a gan, which has no classes to teach");
  const bool tokens = data.input.dtype == DType::kI64;
  const std::string text = fmt::format("[training]\nsteps = 1\ndataset = \"{}\"\nseq_len = {}\n[model]\n{}",
                                       tokens ? "text" : "idx", tokens ? data.input.shape.at(1) : 1, table);
  const config::Model model = config::parse(text, "model.toml").model;
  const bool known = tokens && trained.size() == 2 && trained[1] > 0;
  plan::ModelSpec spec = known ? describe_over(model, data, trained[1], extra) : describe(model, data, extra);
  compute_in(precision, &spec);
  return spec;
}

void add_teacher(plan::ModelSpec teacher, plan::ModelSpec* student) {
  require_chain(teacher, "teacher");
  require_chain(*student, "model");
  const auto own = static_cast<int32_t>(student->units.size());
  const plan::TensorSpec given = teacher.units.back().output, wanted = student->units.back().output;
  if (given.shape != wanted.shape) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("[distillation] teacher: it gives {}, the model {}: both need the same classes and "
                    "samples",
                    to_string(given.shape), to_string(wanted.shape)));
  }
  for (plan::Unit& unit : teacher.units) freeze(&unit);
  declare_scratch(&teacher);
  teacher.units.front().source = plan::kFromBatch;
  for (plan::Unit& unit : teacher.units) student->units.push_back(std::move(unit));
  // The loss reads float32 scores: of 16 bits, copies.
  const auto type_bytes = static_cast<int64_t>(dtype_size(given.dtype));
  if (type_bytes < kFloatBytes) {
    plan::Scratch& scratch = student->units[static_cast<size_t>(own) - 1].loss_scratch;
    scratch.sample_bytes += given.bytes_per_sample() / type_bytes * kFloatBytes;
  }
  student->heads = {{own - 1, 0, static_cast<int32_t>(student->units.size()) - 1, {}}};
  plan::validate(*student);
}

bool is_teachers(std::string_view name) { return name.starts_with(kTeacherPrefix); }

}  // namespace furrow::models
