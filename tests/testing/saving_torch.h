// A model and its saves as a run makes them, without the training between.
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "furrow/models/architectures.h"
#include "furrow/plan/compile.h"
#include "furrow/plan/optimizer_spec.h"
#include "furrow/train/checkpointer_torch.h"
#include "furrow/train/executor_torch.h"
#include "furrow/train/residence_torch.h"

namespace furrow::testing {

// So many units of (width + 1) x width parameters, and as many of each of Adam's two states.
inline plan::ModelSpec wide_units(int64_t units, int64_t width) {
  config::Model model;
  model.name = "mlp";
  model.hidden.assign(static_cast<size_t>(units - 1), width);
  models::DataShape shape;
  shape.input = {DType::kF32, {-1, width}};
  shape.classes = width;
  return models::describe(model, shape);
}

// A rank's saves as Run makes them: of one process, or of one of the data ranks that `joined` is of, who
// share a folder.
struct Saving {
  Saving(int64_t units, int64_t width, const std::string& mode = "async",
         const train::RankContext* joined = nullptr, const std::string& shared = "")
      : spec(wide_units(units, width)) {
    if (joined != nullptr) rank = *joined;
    config.checkpoint.async_mode = mode;
    config.checkpoint.keep_latest_k = 1;
    const int ranks = rank.alone() ? 1 : rank.communicator->size();
    plan::TrainOptions options;
    options.microbatch_sizes.assign(static_cast<size_t>(ranks), 1);
    options.ranks.rank = rank.rank;
    options.recompute.assign(spec.units.size(), false);
    options.optimizer_states = plan::forms_of(rule.states());
    const plan::Layout layout({1, ranks, 1, 1, 1, 1}, ranks);
    const plan::Program program = plan::compile_save(spec, layout, options);
    const plan::FlatLayout flat = plan::flat_layout(spec);
    model =
        std::make_unique<train::ModelState>(spec, rule.states(), /*seed=*/1, std::span<const nn::BlockKind>(),
                                            train::residence_of(flat, program.placement, rank));
    executor =
        std::make_unique<train::Executor>(program, *model, train::find_objective("supervised"), &rule, rank);
    char name[] = "/tmp/furrow_save_XXXXXX";
    folder = rank.alone() ? mkdtemp(name) : shared;
    const train::CheckpointPlace place{folder, train::own_slices(flat, program.placement),
                                       program.placement.writes_statistics(),
                                       program.placement.counts_replicated()};
    checkpointer = std::make_unique<train::Checkpointer>(config, place, rank);
    for (const train::UnitState& unit : model->units()) {
      bytes += unit.params.nbytes();
      for (const at::Tensor& state : unit.states) bytes += state.nbytes();
    }
  }
  ~Saving() {
    checkpointer.reset();
    if (rank.alone()) std::filesystem::remove_all(folder);
  }

  void save(int64_t step) {
    train::RunInputs inputs;
    inputs.step = step;
    inputs.alias_snapshots = !checkpointer->async();
    train::RunOutputs outputs = executor->run(inputs);
    train::RunState state;
    state.step = step;
    checkpointer->save(*model, state, std::move(outputs.snapshots), {});
  }

  config::Config config;
  plan::ModelSpec spec;
  train::OptimizerRule rule{config::Optimizer{}, config::LrScheduler{}, config::Ema{}};
  train::RankContext rank = {};
  std::unique_ptr<train::ModelState> model;
  std::unique_ptr<train::Executor> executor;
  std::string folder;
  std::unique_ptr<train::Checkpointer> checkpointer;
  size_t bytes = 0;
};

}  // namespace furrow::testing
