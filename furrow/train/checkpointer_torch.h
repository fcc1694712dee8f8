// Saves and restores a run: parameters, optimizer state, the best model so far, RunState, recipe.
//
// save() returns once the state is copied (async) or durable (sync).  One save at a time: the next one waits
// for the one under way.  Errors of a background save are thrown by the next save() or by wait().
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "furrow/config/config.h"
#include "furrow/train/model_state_torch.h"
#include "furrow/train/run_state.h"

namespace furrow::train {

class Checkpointer {
 public:
  Checkpointer(const config::Config& config, std::string folder, int threads);
  ~Checkpointer();  // waits; an error that nobody asked for is logged

  bool async() const;

  // `snapshots` by unit, `best` likewise or empty: in an asynchronous save nobody may write to them any more.
  void save(const ModelState& model, const RunState& state, std::vector<UnitState> snapshots,
            std::vector<UnitState> best);
  void wait();

  struct Restored {
    RunState state;
    std::vector<UnitState> best;  // empty when there was none
  };
  // From the newest valid checkpoint (or [checkpoint] load_step); nothing when there is none.  Damaged ones
  // are named on the log and passed over.  Error{failed_precondition}: another recipe under `strict`;
  // Error{data_loss}: all damaged.
  std::optional<Restored> restore(ModelState& model) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Parameters only, from a checkpoint folder or an artefact ("model/"), by name and shape.
void load_parameters(const std::string& path, ModelState& model);

}  // namespace furrow::train
