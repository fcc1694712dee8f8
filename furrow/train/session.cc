#include "furrow/train/session.h"

#include <fmt/format.h>

#include <filesystem>
#include <optional>

#include "furrow/base/error.h"
#include "furrow/base/process.h"
#include "furrow/comm/communicator.h"
#include "furrow/data/fitted_values.h"
#include "furrow/models/architectures.h"
#include "furrow/models/lora.h"
#include "furrow/preprocess/class_names.h"
#include "furrow/storage/artefact.h"
#include "furrow/tensor/allocator_torch.h"
#include "furrow/train/class_weights.h"
#include "furrow/train/device_torch.h"
#include "furrow/train/initial_weights_torch.h"
#include "furrow/train/recipe.h"
#include "furrow/train/run_torch.h"

namespace furrow::train {

namespace {

// Else the other ranks wait for their deadline.
void abort_others(const TrainRequest& request, const Error& error) {
  if (request.communicator == nullptr) return;
  const comm::Roster& roster = request.communicator->roster();
  request.communicator->abort(Error(error.code(), comm::describe(roster, roster.rank) + ": " + error.what()));
}

}  // namespace

observe::Summary train(const TrainRequest& request) {
  tensor::install_counting_allocator();
  try {
    return Run(request).run();
  } catch (const Error& error) {
    abort_others(request, error);
    throw;
  } catch (const std::exception& error) {
    abort_others(request, Error(ErrorCode::kInternal, error.what()));
    throw;
  }
}

namespace {

EvalResult evaluate_artefact(const std::string& folder, const config::Config& config) {
  const storage::Artefact artefact = storage::read_artefact(folder);
  if (!artefact.preprocessing.contains("kind")) {
    throw Error(ErrorCode::kFailedPrecondition,
                folder + " carries no tokenizer: import it again with --tokenizer FILE");
  }
  const auto source = data::open_whole_text(data::dataset_options(config), artefact.preprocessing);
  RankContext rank;
  rank.threads = threads_of(config.training);
  models::DataShape shape;
  shape.input.dtype = DType::kI64;
  shape.input.shape = {-1, config.training.seq_len};
  shape.classes = artefact.outputs.at(0).shape.back();
  ModelState model(models::describe(config.model, shape), {}, 0);
  load_parameters(folder, model);
  const Objective objective = make_objective(config, /*tokens=*/true,
                                             class_weights_of(config, shape.classes, artefact.preprocessing));
  Evaluator evaluator(model, objective, rank,
                      {.batch_size = config.training.local_batch_size,
                       .prefetch = static_cast<int>(config.data.prefetch_batches)});
  const LossSums sums = evaluator.run(*source);
  return {"text", source->size(), sums.mean(), sums.accuracy()};
}

}  // namespace

EvalResult evaluate(const std::string& run_folder, const std::string& split, const config::Config& config) {
  tensor::install_counting_allocator();
  if (std::filesystem::exists(run_folder + "/model.toml")) return evaluate_artefact(run_folder, config);
  const std::string artefact_folder = run_folder + "/model";
  const bool exported = std::filesystem::exists(artefact_folder);
  std::optional<data::Preprocessing> fitted = data::read_fitted(run_folder);
  if (exported) fitted = storage::read_artefact(artefact_folder).preprocessing;
  auto dataset = std::make_shared<data::Dataset>(data::open_dataset(config, fitted ? &*fitted : nullptr));
  const data::Source* source = split == "test" ? dataset->test.get() : dataset->validation.get();
  if (source == nullptr) {
    const bool other = dataset->test != nullptr || dataset->validation != nullptr;
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("the data set of this run has no {} split: {}", split,
                            other ? fmt::format("it has one for {} (--split)",
                                                split == "test" ? "validation" : "test")
                                  : "data.validation_fraction or test files make one"));
  }
  config::Config network = config;
  if (exported) network.optimizer.groups.clear();  // nothing is trained
  Workbench bench = open_workbench(network, std::move(dataset), nullptr, nullptr);
  if (exported) bench.spec = models::merged_network(std::move(bench.spec));
  check_device(network, bench.spec, {});
  Residence residence;
  residence.device = device_of(bench.rank);
  ModelState model(bench.spec, {}, bench.rank.seed, {}, residence);
  const std::filesystem::path checkpoints = std::filesystem::path(run_folder) / config.checkpoint.folder;
  load_parameters(exported ? artefact_folder : checkpoints.string(), model, config.ema.decay > 0);
  Evaluator evaluator(model, *bench.objective, bench.rank,
                      {.batch_size = config.training.local_batch_size,
                       .prefetch = static_cast<int>(config.data.prefetch_batches)});
  const LossSums sums = evaluator.run(*source);
  return {split, source->size(), sums.mean(), sums.accuracy(),
          preprocess::class_names(bench.dataset->preprocessing)};
}

}  // namespace furrow::train
