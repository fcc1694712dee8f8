#include "apps/furrow/plan_model.h"

#include <fmt/format.h>

#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/data/dataset.h"
#include "furrow/models/network.h"
#include "furrow/models/precision.h"
#include "furrow/models/teacher.h"
#include "furrow/storage/artefact.h"

namespace furrow::app {
namespace {

data::DataInfo info_of(const config::Config& config) {
  try {
    return data::probe(config);
  } catch (const Error& error) {
    const bool tokens = config.training.dataset == "text" || config.training.dataset == "pack";
    if (error.code() != ErrorCode::kNotFound || !tokens || config.model.vocab_size == 0) throw;
    fmt::print(stderr,
               "planned without the data ({}): [model] vocab_size and [training] seq_len have the shapes\n",
               error.what());
    return {{{"input", DType::kI64, {config.training.seq_len}}}, config.model.vocab_size, 0};
  }
}

}  // namespace

void check_architecture(const config::Config& config) {
  try {
    models::find_architecture(config.model.name);
  } catch (const Error& error) {
    throw Error(error.code(), config::where(config, "model.name") + error.message());
  }
}

plan::ModelSpec planned_spec(const config::Config& config, const models::DataShape& shape) {
  plan::ModelSpec spec = models::trained_network(config, shape);
  if (config.training.objective == "distillation") {
    const std::string& teacher = config.distillation.teacher;
    try {
      const storage::Artefact artefact = storage::read_artefact(teacher);
      const Shape trained = artefact.inputs.empty() ? Shape() : artefact.inputs[0].shape;
      models::add_teacher(models::describe_teacher(artefact.model, shape, trained,
                                                   models::teachers_precision_policy(config.training)),
                          &spec);
    } catch (Error& error) {
      throw error.with_context("[distillation] teacher " + teacher);
    }
  }
  return spec;
}

PlannedModel planned_model(const config::Config& config) {
  check_architecture(config);
  const data::DataInfo info = info_of(config);
  const data::Field& input = info.fields[0];
  models::DataShape shape{{input.dtype, input.shape}, info.classes};
  shape.input.shape.insert(shape.input.shape.begin(), -1);
  return {planned_spec(config, shape), shape, info.classes, info.train_samples};
}

}  // namespace furrow::app
