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
  double momentum = 0;          // SGD
  bool nesterov = false;        // SGD
  double beta1 = 0, beta2 = 0;  // Adam, AdamW, Lion
  double eps = 0;               // Adam, AdamW
  double weight_decay = 0;      // SGD, Adam: added to the gradient (L2); AdamW, Lion: decoupled
  int64_t step = 1;  // 1 for the first step: bias correction; SGD's momentum buffer starts as the gradient
  float gradient_factor = 1;  // every gradient element is multiplied with it first
};

struct OptimizerSpan {
  std::span<float> params;
  std::span<const float> gradient;
  std::array<std::span<float>, 2> states;  // as many as Optimizer::states says
};

struct Optimizer {
  std::string_view name;  // a row of plan/optimizer_spec.cc
  size_t states = 0;      // flat buffers; SGD without momentum takes none
  void (*step)(const OptimizerSpan& span, const StepParameters& parameters, int threads);
};

// As torch.optim's SGD (dampening 0), Adam and AdamW; Lion: Chen et al., "Symbolic discovery of optimization
// algorithms", 2023.  kernels/optimizer.h has the formulas.
std::span<const Optimizer> optimizers();
const Optimizer& find_optimizer(std::string_view name);  // Error{invalid_argument}, lists the known ones

}  // namespace furrow::tensor
