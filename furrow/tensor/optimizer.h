// Optimizers as fused loops over flat float32 spans.  Torch-free.  One row of optimizer.cc each.
//
// The bits of element i do not depend on the span's offset, its length or the number of threads.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

namespace furrow::tensor {

// Hyper-parameters of one step.
struct StepParameters {
  double lr = 0;
  double momentum = 0;                   // SGD
  bool nesterov = false;                 // SGD
  double beta1 = 0, beta2 = 0, eps = 0;  // AdamW
  double weight_decay = 0;               // SGD: added to the gradient (L2); AdamW: decoupled
  int64_t step = 1;  // 1 for the first step: bias correction; SGD's momentum buffer starts as the gradient
  float gradient_factor = 1;  // every gradient element is multiplied with it first
};

struct OptimizerSpan {
  std::span<float> params;
  std::span<const float> gradient;
  std::array<std::span<float>, 2> states;  // as many as Optimizer::states(...) says
};

struct Optimizer {
  std::string_view name;                   // "adamw"
  std::array<std::string_view, 2> states;  // "exp_avg", "exp_avg_sq"; "" where fewer
  void (*step)(const OptimizerSpan& span, const StepParameters& parameters, int threads);
};

// SGD: PyTorch's torch.optim.SGD (dampening 0).  AdamW: Loshchilov and Hutter, "Decoupled weight decay
// regularization", 2019, as torch.optim.AdamW.
std::span<const Optimizer> optimizers();
const Optimizer& find_optimizer(std::string_view name);  // Error{invalid_argument}, lists the known ones

}  // namespace furrow::tensor
