#include "furrow/train/session.h"

#include <filesystem>

#include "furrow/base/error.h"
#include "furrow/comm/communicator.h"
#include "furrow/storage/artefact.h"
#include "furrow/tensor/allocator_torch.h"
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

EvalResult evaluate(const std::string& run_folder, const std::string& split, const config::Config& config) {
  tensor::install_counting_allocator();
  const std::string artefact_folder = run_folder + "/model";
  const bool exported = std::filesystem::exists(artefact_folder);
  data::Preprocessing fitted;
  if (exported) fitted = storage::read_artefact(artefact_folder).preprocessing;
  auto dataset = std::make_shared<data::Dataset>(data::open_dataset(config, exported ? &fitted : nullptr));
  const data::Source* source = split == "test" ? dataset->test.get() : dataset->validation.get();
  if (source == nullptr) {
    throw Error(ErrorCode::kInvalidArgument, "the data set of this run has no " + split + " split");
  }
  config::Config network = config;
  if (exported) network.lora.rank = 0;  // its adapters are merged
  const Workbench bench = open_workbench(network, std::move(dataset), nullptr, nullptr);
  ModelState model(bench.spec, {}, bench.rank.seed);
  const std::filesystem::path checkpoints = std::filesystem::path(run_folder) / config.checkpoint.folder;
  load_parameters(exported ? artefact_folder : checkpoints.string(), model, config.ema.decay > 0);
  Evaluator evaluator(model, *bench.objective, bench.rank,
                      {.batch_size = config.training.local_batch_size,
                       .prefetch = static_cast<int>(config.data.prefetch_batches)});
  const LossSums sums = evaluator.run(*source);
  return {split, source->size(), sums.mean(), sums.accuracy()};
}

}  // namespace furrow::train
