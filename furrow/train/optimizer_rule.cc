#include "furrow/train/optimizer_rule.h"

#include <algorithm>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/plan/optimizer_spec.h"

namespace furrow::train {

OptimizerRule::OptimizerRule(const config::Optimizer& config, const config::LrScheduler& schedule,
                             const config::Ema& ema)
    : config_(config),
      moves_momentum_(schedule.decay_type == "one_cycle" && schedule.cycle_momentum),
      ema_(ema),
      states_(plan::optimizer_states(config, schedule, ema)) {
  const std::vector<std::string> names = plan::optimizers_of(config);
  for (const std::string& name : names) {
    Kernel kernel{&tensor::find_optimizer(name)};
    const std::string tag = names.size() > 1 ? name : "";
    for (size_t s = 0; s < states_.size(); ++s) {
      if (states_[s].form.optimizer == tag && states_[s].name != plan::kAverageState)
        kernel.states.push_back(s);
    }
    kernels_.emplace(tag, std::move(kernel));
  }
}

const OptimizerRule::Kernel& OptimizerRule::kernel_of(const plan::ParameterRule& rule) const {
  const auto found = kernels_.find(rule.optimizer);
  FURROW_CHECK(found != kernels_.end(), "no optimizer of the run steps this parameter: " + rule.optimizer);
  return found->second;
}

// Rates have that of the run's optimizer, which is another optimizer's where the schedule moves it.
double OptimizerRule::momentum_of(bool sgd, const Rates& rates) const {
  if (moves_momentum_ || (config_.name == "sgd") == sgd) return rates.momentum;
  return sgd ? config_.momentum : config_.beta1;
}

tensor::StepParameters OptimizerRule::parameters(int64_t step, const Rates& rates, double gradient_factor,
                                                 const plan::FlatGroup& group) const {
  tensor::StepParameters p;
  p.lr = rates.lr * group.rule.lr_scale;
  const bool muon = kernel_of(group.rule).optimizer->name == "muon";
  p.momentum = group.rule.momentum.value_or(muon ? config_.momentum : momentum_of(/*sgd=*/true, rates));
  p.nesterov = config_.nesterov;
  p.beta1 = group.rule.beta1.value_or(momentum_of(/*sgd=*/false, rates));
  p.beta2 = group.rule.beta2.value_or(config_.beta2);
  p.beta2_decay = config_.beta2_decay;
  p.eps = group.rule.eps.value_or(config_.eps);
  p.weight_decay = group.rule.weight_decay.value_or(group.decays ? config_.weight_decay : 0);
  p.step = step + 1;
  p.gradient_factor = static_cast<float>(gradient_factor);
  return p;
}

double OptimizerRule::average_decay(int64_t step) const {
  const auto done = static_cast<double>(step + 1);
  return ema_.warmup ? std::min(ema_.decay, (1 + done) / (10 + done)) : ema_.decay;
}

}  // namespace furrow::train
