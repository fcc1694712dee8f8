#include "furrow/tensor/optimizer.h"

#include <string>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/names.h"
#include "furrow/tensor/kernels/optimizer.h"

namespace furrow::tensor {
namespace {

void check_sizes(const OptimizerSpan& span, size_t states) {
  bool fits = span.gradient.size() == span.params.size();
  for (size_t i = 0; i < states; ++i) fits = fits && span.states[i].size() == span.params.size();
  FURROW_CHECK(fits, "parameters, gradient and states of a step differ in size");
}

void sgd_step(const OptimizerSpan& span, const StepParameters& parameters, int threads) {
  // A schedule may pass through momentum 0: the buffer is kept up all the same.
  const bool with_momentum = parameters.momentum != 0 || !span.states[0].empty();
  check_sizes(span, with_momentum ? 1 : 0);
  kernels::Sgd args;
  args.n = static_cast<int64_t>(span.params.size());
  args.param = span.params.data();
  args.grad = span.gradient.data();
  args.momentum_buffer = with_momentum ? span.states[0].data() : nullptr;
  args.grad_scale = parameters.gradient_factor;
  args.lr = static_cast<float>(parameters.lr);
  args.momentum = static_cast<float>(parameters.momentum);
  args.weight_decay = static_cast<float>(parameters.weight_decay);
  args.nesterov = parameters.nesterov;
  kernels::sgd_step(args, threads);
}

void adam_step(const OptimizerSpan& span, const StepParameters& parameters, bool decoupled, int threads) {
  check_sizes(span, 2);
  kernels::Adam args;
  args.n = static_cast<int64_t>(span.params.size());
  args.param = span.params.data();
  args.grad = span.gradient.data();
  args.exp_avg = span.states[0].data();
  args.exp_avg_sq = span.states[1].data();
  args.grad_scale = parameters.gradient_factor;
  args.lr = parameters.lr;
  args.beta1 = parameters.beta1;
  args.beta2 = parameters.beta2;
  args.eps = parameters.eps;
  args.weight_decay = parameters.weight_decay;
  args.decoupled = decoupled;
  args.step = parameters.step;
  kernels::adam_step(args, threads);
}

void coupled_adam_step(const OptimizerSpan& span, const StepParameters& parameters, int threads) {
  adam_step(span, parameters, /*decoupled=*/false, threads);
}

void adamw_step(const OptimizerSpan& span, const StepParameters& parameters, int threads) {
  adam_step(span, parameters, /*decoupled=*/true, threads);
}

void lion_step(const OptimizerSpan& span, const StepParameters& parameters, int threads) {
  check_sizes(span, 1);
  kernels::Lion args;
  args.n = static_cast<int64_t>(span.params.size());
  args.param = span.params.data();
  args.grad = span.gradient.data();
  args.exp_avg = span.states[0].data();
  args.grad_scale = parameters.gradient_factor;
  args.lr = parameters.lr;
  args.beta1 = parameters.beta1;
  args.beta2 = parameters.beta2;
  args.weight_decay = parameters.weight_decay;
  kernels::lion_step(args, threads);
}

constexpr Optimizer kOptimizers[] = {
    {"adam", 2, &coupled_adam_step},
    {"adamw", 2, &adamw_step},
    {"lion", 1, &lion_step},
    {"sgd", 1, &sgd_step},
};

}  // namespace

std::span<const Optimizer> optimizers() { return kOptimizers; }

const Optimizer& find_optimizer(std::string_view name) {
  std::vector<std::string> known;
  for (const Optimizer& optimizer : kOptimizers) {
    if (optimizer.name == name) return optimizer;
    known.emplace_back(optimizer.name);
  }
  throw Error(ErrorCode::kInvalidArgument, unknown_name_message("optimizer", name, known));
}

}  // namespace furrow::tensor
