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

// One process's saves as Run makes them.
struct Saving {
  Saving(int64_t units, int64_t width, const std::string& mode = "async") : spec(wide_units(units, width)) {
    config.checkpoint.async_mode = mode;
    config.checkpoint.keep_latest_k = 1;
    plan::TrainOptions options;
    options.microbatch_sizes = {1};
    options.recompute.assign(spec.units.size(), false);
    options.optimizer_states = plan::forms_of(rule.states());
    const plan::Layout layout({1, 1, 1, 1, 1, 1}, 1);
    const plan::Program program = plan::compile_save(spec, layout, options);
    model = std::make_unique<train::ModelState>(spec, rule.states(), /*seed=*/1);
    executor =
        std::make_unique<train::Executor>(program, *model, train::find_objective("supervised"), &rule, rank);
    char name[] = "/tmp/furrow_save_XXXXXX";
    folder = mkdtemp(name);
    train::CheckpointPlace place;
    place.folder = folder;
    checkpointer = std::make_unique<train::Checkpointer>(config, place, rank);
    for (const train::UnitState& unit : model->units()) {
      bytes += unit.params.nbytes();
      for (const at::Tensor& state : unit.states) bytes += state.nbytes();
    }
  }
  ~Saving() {
    checkpointer.reset();
    std::filesystem::remove_all(folder);
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
  train::RankContext rank;
  std::unique_ptr<train::ModelState> model;
  std::unique_ptr<train::Executor> executor;
  std::string folder;
  std::unique_ptr<train::Checkpointer> checkpointer;
  size_t bytes = 0;
};

}  // namespace furrow::testing
