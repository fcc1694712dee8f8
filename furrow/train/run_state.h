// Where a run stands, besides its tensors: what a checkpoint needs to go on as if nothing had happened.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/train/loss_scale.h"

namespace furrow::train {

struct RunState {
  int64_t step = 0;      // steps finished
  int64_t position = 0;  // global samples consumed: the whole data position
  double last_loss = std::numeric_limits<double>::quiet_NaN();
  double last_validation_loss = std::numeric_limits<double>::quiet_NaN();
  double last_validation_accuracy = std::numeric_limits<double>::quiet_NaN();
  bool has_best = false;
  int64_t best_step = 0;
  double best_metric = 0;
  double best_validation_loss = 0;
  double best_validation_accuracy = 0;
  int64_t bad_validations = 0;  // in a row without improvement: early stopping
  std::vector<PhaseState> phases = std::vector<PhaseState>(1);  // one at least
  bool stopped_early = false;
  bool validation_due = false;                // the step is finished, its validation is not (interrupted)
  std::vector<std::string> class_names = {};  // of the data that it was trained on

  // Of a model with so many phases.  What says nothing of the later ones was written when a step had one
  // scale and one count of what was skipped: they go on from those.
  void expect_phases(int64_t count);
};

// One "key value" line each; doubles round-trip.  parse throws Error{data_loss}.
std::string to_text(const RunState& state);
RunState parse_run_state(std::string_view text);

}  // namespace furrow::train
