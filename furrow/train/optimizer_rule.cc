#include "furrow/train/optimizer_rule.h"

#include <algorithm>

#include "furrow/plan/optimizer_spec.h"

namespace furrow::train {

OptimizerRule::OptimizerRule(const config::Optimizer& config, const config::LrScheduler& schedule,
                             const config::Ema& ema)
    : config_(config),
      kernel_(&tensor::find_optimizer(config.name)),
      ema_(ema),
      states_(plan::optimizer_states(config, schedule, ema)) {}

tensor::StepParameters OptimizerRule::parameters(int64_t step, const Rates& rates, double gradient_factor,
                                                 const plan::FlatGroup& group) const {
  tensor::StepParameters p;
  p.lr = rates.lr * group.rule.lr_scale;
  p.momentum = config_.name == "muon" ? config_.momentum : rates.momentum;
  p.nesterov = config_.nesterov;
  p.beta1 = group.rule.beta1.value_or(rates.momentum);
  p.beta2 = group.rule.beta2.value_or(config_.beta2);
  p.beta2_decay = config_.beta2_decay;
  p.eps = group.rule.eps.value_or(config_.eps);
  p.weight_decay = group.rule.weight_decay.value_or(group.decays ? config_.weight_decay : 0);
  p.step = step + 1;
  p.gradient_factor = static_cast<float>(gradient_factor);
  return p;
}

size_t OptimizerRule::kernel_states() const { return states_.size() - (ema_.decay > 0 ? 1 : 0); }

double OptimizerRule::average_decay(int64_t step) const {
  const auto done = static_cast<double>(step + 1);
  return ema_.warmup ? std::min(ema_.decay, (1 + done) / (10 + done)) : ema_.decay;
}

}  // namespace furrow::train
