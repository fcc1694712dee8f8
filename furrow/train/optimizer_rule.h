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
  // `moving_momentum`: the schedule sets the momentum of each step.  Error{invalid_argument}: unknown name.
  OptimizerRule(const config::Optimizer& config, bool moving_momentum);
  std::vector<std::string> state_names() const;  // "exp_avg", "exp_avg_sq"; SGD without momentum: none
  // Hyper-parameters of 0-based step `step`, `decay` for parameters that decay.
  tensor::StepParameters parameters(int64_t step, const Rates& rates, double gradient_factor,
                                    bool decay) const;
  const tensor::Optimizer& kernel() const { return *kernel_; }

 private:
  config::Optimizer config_;
  const tensor::Optimizer* kernel_;
  bool has_states_ = true;
};

}  // namespace furrow::train
