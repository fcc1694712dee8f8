#include "furrow/train/optimizer_rule.h"

namespace furrow::train {

OptimizerRule::OptimizerRule(const config::Optimizer& config, bool moving_momentum)
    : config_(config), kernel_(&tensor::find_optimizer(config.name)) {
  has_states_ = config_.name != "sgd" || config_.momentum != 0 || moving_momentum;
}

std::vector<std::string> OptimizerRule::state_names() const {
  std::vector<std::string> names;
  if (!has_states_) return names;
  for (std::string_view name : kernel_->states) {
    if (!name.empty()) names.emplace_back(name);
  }
  return names;
}

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
