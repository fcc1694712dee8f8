// A loss scale that follows the gradients: float16 loses those below 6e-8, so they travel multiplied, and a
// step whose gradients overflow is skipped and lowers the factor.  The rule and its defaults are those of
// torch.amp.GradScaler.  Torch-free; pure functions.
#pragma once

#include <cstdint>

#include "furrow/config/grad_scaler.h"

namespace furrow::train {

// Of one phase: a value of the program, loss_scale(v), and of checkpoints.
struct LossScale {
  double factor = 65536;  // of the mean of the losses
  int64_t growth = 0;     // finite steps in a row since it last changed
  friend bool operator==(const LossScale&, const LossScale&) = default;
};

// After a step whose gradients were finite or were not: with growth_interval finite ones in a row the factor
// grows, unless it would leave float32; with one that is not it backs off.
LossScale next_loss_scale(const LossScale& scale, bool finite, const config::GradScaler& rule);

// Where a phase of the step stands, besides its tensors.
struct PhaseState {
  int64_t skipped_steps = 0;  // whose verdict was not finite: its optimizer does not count them
  LossScale loss_scale = {};
  friend bool operator==(const PhaseState&, const PhaseState&) = default;
};

// What the gradient of the *sum* over a global batch of `targets` is multiplied with: the factor over the
// first power of two not below it, so that one factor fits batches of every size, exactly.
double factor_of_sum(const LossScale& scale, int64_t targets);

}  // namespace furrow::train
