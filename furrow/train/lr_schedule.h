// Learning-rate schedules: the rate (and the momentum) of a step as a pure function of its number.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "furrow/config/config.h"

namespace furrow::train {

struct Rates {
  double lr = 0;
  double momentum = 0;  // SGD momentum or Adam's and Lion's beta1; one-cycle moves it the other way
};

struct ScheduleInputs {
  const config::LrScheduler& schedule;
  const config::Optimizer& optimizer;
  int64_t total_steps = 0;  // of the training run; [lr_scheduler] total_steps overrides it
};

// One row per [lr_scheduler] decay_type.
struct Schedule {
  std::string_view name;
  // `step` counts from 0.
  Rates (*rates)(const ScheduleInputs& inputs, int64_t step);
};

std::span<const Schedule> schedules();
const Schedule& find_schedule(std::string_view name);  // Error{invalid_argument}, lists the known ones

// constant, linear, sqrt, cosine: linear warm-up over warmup_steps, then constant, then decay over
// decay_ratio of the steps (all after warm-up when unset) down to min_lr_factor; the formula is torchtitan's
// linear_warmup_stable_decay. step: after warm-up times gamma every step_size steps, PyTorch's StepLR.
// one_cycle: Smith and Topin, "Super-convergence", 2017, with cosine annealing in two phases, as in PyTorch's
// OneCycleLR: lr/div_factor -> lr -> lr/div_factor/final_div_factor; momentum max
// -> base -> max.
Rates rates_at(const ScheduleInputs& inputs, int64_t step);

}  // namespace furrow::train
