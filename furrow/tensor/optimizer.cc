#include "furrow/tensor/optimizer.h"

#include <cmath>
#include <string>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/exact_sum.h"
#include "furrow/base/names.h"
#include "furrow/tensor/kernels/optimizer.h"
#include "furrow/tensor/kernels/quantised_adam.h"
#include "furrow/tensor/optimizer_steps.h"

namespace furrow::tensor {
namespace {

void check_sizes(const OptimizerSpan& span, size_t states) {
  bool fits = span.gradient.size() == span.params.size();
  for (size_t i = 0; i < states; ++i) fits = fits && span.states[i].size() == span.params.size();
  FURROW_CHECK(fits, "parameters, gradient and states of a step differ in size");
}

// A kernel's arguments, but for the states: those of its fields that hyper-parameters have too.
template <class Args>
Args args_of(const OptimizerSpan& span, const StepParameters& parameters) {
  Args args;
  args.n = static_cast<int64_t>(span.params.size());
  args.param = span.params.data();
  args.grad = span.gradient.data();
  args.grad_scale = parameters.gradient_factor;
  args.weight_decay = static_cast<decltype(args.weight_decay)>(parameters.weight_decay);
  if constexpr (requires { args.lr; }) args.lr = static_cast<decltype(args.lr)>(parameters.lr);
  if constexpr (requires { args.beta1; }) {
    args.beta1 = parameters.beta1;
    args.beta2 = parameters.beta2;
  }
  if constexpr (requires { args.eps; }) {
    args.eps = parameters.eps;
    args.step = parameters.step;
  }
  return args;
}

void sgd_step(const OptimizerSpan& span, const StepParameters& parameters, int threads) {
  // A schedule may pass through momentum 0: the buffer is kept up all the same.
  const bool with_momentum = parameters.momentum != 0 || !span.states[0].empty();
  check_sizes(span, with_momentum ? 1 : 0);
  auto args = args_of<kernels::Sgd>(span, parameters);
  args.momentum_buffer = with_momentum ? span.states[0].floats().data() : nullptr;
  args.momentum = static_cast<float>(parameters.momentum);
  args.nesterov = parameters.nesterov;
  kernels::sgd_step(args, threads);
}

void adam_step(const OptimizerSpan& span, const StepParameters& parameters, bool decoupled, int threads) {
  check_sizes(span, 2);
  auto args = args_of<kernels::Adam>(span, parameters);
  args.exp_avg = span.states[0].floats().data();
  args.exp_avg_sq = span.states[1].floats().data();
  args.decoupled = decoupled;
  kernels::adam_step(args, threads);
}

void coupled_adam_step(const OptimizerSpan& span, const StepParameters& parameters, int threads) {
  adam_step(span, parameters, /*decoupled=*/false, threads);
}

void adamw8bit_step(const OptimizerSpan& span, const StepParameters& parameters, int threads) {
  const size_t size = span.params.size();
  const auto blocks = static_cast<size_t>(kernels::quantised_blocks(static_cast<int64_t>(size)));
  FURROW_CHECK(span.gradient.size() == size && span.states[0].size() == size &&
                   span.states[2].size() == size && span.states[1].size() == blocks &&
                   span.states[3].size() == blocks,
               "parameters, gradient and quantised states of a step do not fit");
  auto args = args_of<kernels::QuantisedAdam>(span, parameters);
  args.first = span.states[0].codes().data();
  args.first_scale = span.states[1].floats().data();
  args.second = span.states[2].codes().data();
  args.second_scale = span.states[3].floats().data();
  kernels::quantised_adam_step(args, threads);
}

void lion_step(const OptimizerSpan& span, const StepParameters& parameters, int threads) {
  check_sizes(span, 1);
  auto args = args_of<kernels::Lion>(span, parameters);
  args.exp_avg = span.states[0].floats().data();
  kernels::lion_step(args, threads);
}

// The norms are sums of squares on the grid, joined exactly: threads change no bit.
void lamb_step(const OptimizerSpan& span, const StepParameters& parameters, int threads) {
  check_sizes(span, 2);
  FURROW_CHECK(span.whole || span.params.empty(), "LAMB steps whole parameters");
  auto args = args_of<kernels::Lamb>(span, parameters);
  args.exp_avg = span.states[0].floats().data();
  args.exp_avg_sq = span.states[1].floats().data();
  const bool adapts = parameters.weight_decay > 0;
  const auto blocks = static_cast<size_t>(adapts ? kernels::grid_blocks(args.n) : 0);
  std::vector<double> param_squares(blocks), direction_squares(blocks);
  args.param_squares = adapts ? param_squares.data() : nullptr;
  args.direction_squares = adapts ? direction_squares.data() : nullptr;
  kernels::lamb_moments(args, threads);
  ExactSum param, direction;
  param.add_all(param_squares);
  direction.add_all(direction_squares);
  const double norm = std::sqrt(param.value()), length = std::sqrt(direction.value());
  args.rate = parameters.lr * (norm > 0 && length > 0 ? norm / length : 1);
  kernels::lamb_apply(args, threads);
}

constexpr Optimizer kOptimizers[] = {
    {"adafactor", 3, &adafactor_step}, {"adam", 2, &coupled_adam_step}, {"adamw", 2, &adamw_step},
    {"adamw8bit", 4, &adamw8bit_step}, {"lamb", 2, &lamb_step},         {"lion", 1, &lion_step},
    {"muon", 2, &muon_step},           {"sgd", 1, &sgd_step},
};

}  // namespace

void adamw_step(const OptimizerSpan& span, const StepParameters& parameters, int threads) {
  adam_step(span, parameters, /*decoupled=*/true, threads);
}

std::span<const Optimizer> optimizers() { return kOptimizers; }

const Optimizer& find_optimizer(std::string_view name) {
  std::vector<std::string> known;
  for (const Optimizer& optimizer : kOptimizers) {
    if (optimizer.name == name) return optimizer;
    known.emplace_back(optimizer.name);
  }
  throw Error(ErrorCode::kInvalidArgument, unknown_name_message("optimizer", name, known));
}

void update_average(std::span<const float> params, std::span<float> average, double decay, int threads) {
  FURROW_CHECK(params.size() == average.size(), "parameters and their average differ in size");
  kernels::update_average(
      {static_cast<int64_t>(params.size()), params.data(), average.data(), static_cast<float>(1 - decay)},
      threads);
}

}  // namespace furrow::tensor
