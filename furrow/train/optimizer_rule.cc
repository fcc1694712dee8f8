#include "furrow/train/optimizer_rule.h"

#include "furrow/plan/optimizer_spec.h"

namespace furrow::train {

OptimizerRule::OptimizerRule(const config::Optimizer& config, const config::LrScheduler& schedule)
    : config_(config),
      kernel_(&tensor::find_optimizer(config.name)),
      states_(plan::optimizer_states(config, schedule)) {}

tensor::StepParameters OptimizerRule::parameters(int64_t step, const Rates& rates, double gradient_factor,
                                                 bool decay) const {
  tensor::StepParameters p;
  p.lr = rates.lr;
  p.momentum = rates.momentum;
  p.nesterov = config_.nesterov;
  p.beta1 = rates.momentum;
  p.beta2 = config_.beta2;
  p.eps = config_.eps;
  p.weight_decay = decay ? config_.weight_decay : 0;
  p.step = step + 1;
  p.gradient_factor = static_cast<float>(gradient_factor);
  return p;
}

}  // namespace furrow::train
