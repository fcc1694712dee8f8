// Binds [optimizer] to a row of tensor/optimizer.h and the hyper-parameters of a step.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "furrow/config/config.h"
#include "furrow/tensor/optimizer.h"
#include "furrow/train/lr_schedule.h"

namespace furrow::train {

class OptimizerRule {
 public:
  // Error{invalid_argument}: unknown name.
  OptimizerRule(const config::Optimizer& config, const config::LrScheduler& schedule);
  const std::vector<std::string>& state_names() const { return states_; }  // plan::optimizer_states
  // Hyper-parameters of 0-based step `step`, `decay` for parameters that decay.
  tensor::StepParameters parameters(int64_t step, const Rates& rates, double gradient_factor,
                                    bool decay) const;
  const tensor::Optimizer& kernel() const { return *kernel_; }

 private:
  config::Optimizer config_;
  const tensor::Optimizer* kernel_;
  std::vector<std::string> states_;
};

}  // namespace furrow::train
