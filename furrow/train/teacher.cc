// What a run needs of its teacher besides its weights (initial_weights.cc): its network, and that it reads
// what the run reads.
#include "furrow/models/teacher.h"

#include <fmt/format.h>

#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/log.h"
#include "furrow/models/precision.h"
#include "furrow/preprocess/class_names.h"
#include "furrow/preprocess/difference.h"
#include "furrow/storage/artefact.h"
#include "furrow/train/extensions_torch.h"
#include "furrow/train/run_torch.h"

namespace furrow::train {
namespace {

std::string kind_of(const data::Preprocessing& state) {
  const auto found = state.find("kind");
  return found == state.end() ? "nothing fitted" : found->second;
}

// A teacher that was trained on other inputs than the run's would teach what it says of noise.
void check_inputs(const data::Preprocessing& teachers, const data::Preprocessing& own) {
  const auto found = preprocess::difference(teachers, own);
  if (!found) {
    const auto classes =
        preprocess::class_difference(preprocess::class_names(teachers), preprocess::class_names(own));
    if (!classes) return;
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("it was trained on other classes: {}: name and order them alike", *classes));
  }
  const std::string what = found->key == "kind" ? ""
                                                : fmt::format(" of another {}: {} and {}", found->key,
                                                              found->first, found->second);
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("it was trained on data that '{}' prepared, this run's data is prepared by '{}'{}: "
                          "set [data] as it was for the teacher, or train a teacher on this run's data",
                          kind_of(teachers), kind_of(own), what));
}

storage::Artefact read_teacher(const TrainRequest& request) {
  try {
    return storage::read_artefact(request.config.distillation.teacher);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kNotFound || !request.resume) throw;
    throw Error(
        ErrorCode::kNotFound,
        std::string(error.what()) +
            ": the checkpoint has the teacher's weights, but not its network: put its folder back, or "
            "name where it is now with --distillation.teacher");
  }
}

}  // namespace

Workbench with_teacher(const TrainRequest& request, Workbench bench) {
  const config::Config& config = request.config;
  if (config.training.objective != "distillation") return bench;
  const std::span<const models::Architecture> extra =
      request.extensions ? std::span<const models::Architecture>(request.extensions->architectures)
                         : std::span<const models::Architecture>();
  try {
    const storage::Artefact artefact = read_teacher(request);
    if (artefact.preprocessing.contains("kind")) {
      check_inputs(artefact.preprocessing, bench.dataset->preprocessing);
    } else if (request.communicator == nullptr || request.communicator->rank() == 0) {
      log_warning(
          fmt::format("[distillation] teacher {} does not say how its data was prepared: whether as this "
                      "run's is not checked",
                      config.distillation.teacher));
    }
    const Shape trained = artefact.inputs.empty() ? Shape() : artefact.inputs[0].shape;
    models::add_teacher(models::describe_teacher(artefact.model, shape_of(*bench.dataset->train), trained,
                                                 models::teachers_precision_policy(config.training), extra),
                        &bench.spec);
    return bench;
  } catch (Error& error) {
    throw error.with_context("[distillation] teacher " + config.distillation.teacher);
  }
}

}  // namespace furrow::train
