// Binds [optimizer] to a row of tensor/optimizer.h and the hyper-parameters of a step.
#pragma once

#include <cstdint>
#include <vector>

#include "furrow/config/config.h"
#include "furrow/plan/flat_layout.h"
#include "furrow/plan/state_form.h"
#include "furrow/tensor/optimizer.h"
#include "furrow/train/lr_schedule.h"

namespace furrow::train {

class OptimizerRule {
 public:
  // Error{invalid_argument}: unknown name.
  OptimizerRule(const config::Optimizer& config, const config::LrScheduler& schedule,
                const config::Ema& ema = {});
  const std::vector<plan::StateSpec>& states() const { return states_; }  // plan::optimizer_states
  // Hyper-parameters of 0-based step `step` for the parameters of a group.
  tensor::StepParameters parameters(int64_t step, const Rates& rates, double gradient_factor,
                                    const plan::FlatGroup& group) const;
  double average_decay(int64_t step) const;  // of [ema], at the end of 0-based step `step`
  const tensor::Optimizer& kernel() const { return *kernel_; }
  size_t kernel_states() const;  // how many of states() are the kernel's, the first ones

 private:
  config::Optimizer config_;
  const tensor::Optimizer* kernel_;
  config::Ema ema_;
  std::vector<plan::StateSpec> states_;
};

}  // namespace furrow::train
