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
  int64_t skipped_steps = 0;    // with a non-finite gradient, under nan_policy "skip" or a loss scale
  LossScale loss_scale = {};
  bool stopped_early = false;
  bool validation_due = false;                // the step is finished, its validation is not (interrupted)
  std::vector<std::string> class_names = {};  // of the data that it was trained on
};

// One "key value" line each; doubles round-trip.  parse throws Error{data_loss}.
std::string to_text(const RunState& state);
RunState parse_run_state(std::string_view text);

}  // namespace furrow::train
