// Binds [optimizer] to a row of tensor/optimizer.h and the hyper-parameters of a step.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
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
  // What steps the parameters of a rule, and which of states() are its own, in its order.
  struct Kernel {
    const tensor::Optimizer* optimizer = nullptr;
    std::vector<size_t> states = {};
  };
  const Kernel& kernel_of(const plan::ParameterRule& rule) const;

 private:
  double momentum_of(bool sgd, const Rates& rates) const;

  config::Optimizer config_;
  std::map<std::string, Kernel, std::less<>> kernels_;  // by ParameterRule::optimizer
  bool moves_momentum_;                                 // the schedule does
  config::Ema ema_;
  std::vector<plan::StateSpec> states_;
};

}  // namespace furrow::train
