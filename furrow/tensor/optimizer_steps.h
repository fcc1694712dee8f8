// The steps behind rows of optimizer.cc that have files of their own.  Internal to tensor.
#pragma once

#include "furrow/tensor/optimizer.h"

namespace furrow::tensor {

void adafactor_step(const OptimizerSpan& span, const StepParameters& parameters, int threads);
void adamw_step(const OptimizerSpan& span, const StepParameters& parameters, int threads);
void muon_step(const OptimizerSpan& span, const StepParameters& parameters, int threads);

}  // namespace furrow::tensor
