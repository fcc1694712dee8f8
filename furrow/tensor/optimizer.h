// Optimizers as fused loops over flat float32 spans.  Torch-free.  One row of optimizer.cc each.
//
// The bits of element i do not depend on the span's offset, its length or the number of threads; those of a
// whole parameter not on where it lies.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "furrow/base/error.h"

namespace furrow::tensor {

// Hyper-parameters of one step.
struct StepParameters {
  double lr = 0;
  double momentum = 0;          // SGD, Muon
  bool nesterov = false;        // SGD, Muon
  double beta1 = 0, beta2 = 0;  // Adam, AdamW, Lion, LAMB, what Muon leaves
  double eps = 0;               // Adam, AdamW, LAMB
  double beta2_decay = 0;       // Adafactor
  double weight_decay = 0;      // SGD, Adam: added to the gradient (L2); LAMB: to the direction; the others:
                                // decoupled
  int64_t step = 1;  // 1 for the first step: bias correction; SGD's momentum buffer starts as the gradient
  float gradient_factor = 1;  // every gradient element is multiplied with it first
};

// A span of one state: float32, or bytes.
class StateSpan {
 public:
  StateSpan() = default;
  StateSpan(std::span<float> values)  // NOLINT(google-explicit-constructor)
      : bytes_(std::as_writable_bytes(values)), element_(sizeof(float)) {}
  StateSpan(std::span<uint8_t> codes)  // NOLINT(google-explicit-constructor)
      : bytes_(std::as_writable_bytes(codes)), element_(1) {}

  bool empty() const { return bytes_.empty(); }
  size_t size() const { return bytes_.size() / element_; }  // elements
  std::span<float> floats() const { return as<float>(); }
  std::span<uint8_t> codes() const { return as<uint8_t>(); }

 private:
  template <class T>
  std::span<T> as() const {
    FURROW_CHECK(bytes_.empty() || element_ == sizeof(T), "a state is of another type");
    return {reinterpret_cast<T*>(bytes_.data()), bytes_.size() / sizeof(T)};
  }
  std::span<std::byte> bytes_;
  size_t element_ = sizeof(float);
};

// What one call steps: a run of elements of one rule, or, where the optimizer needs it, one whole parameter.
struct OptimizerSpan {
  std::span<float> params;
  std::span<const float> gradient;
  std::array<StateSpan, 4> states = {};  // as many as Optimizer::states says, in the forms of its spec
  bool whole = false;                    // a whole parameter
  int64_t rows = 0;                      // of a whole matrix; else 0
};

struct Optimizer {
  std::string_view name;  // a row of plan/optimizer_spec.cc
  size_t states = 0;      // SGD without momentum takes none
  void (*step)(const OptimizerSpan& span, const StepParameters& parameters, int threads);
};

// As torch.optim's SGD (dampening 0), Adam and AdamW; Lion: Chen et al., "Symbolic discovery of optimization
// algorithms", 2023; LAMB: You et al., "Large batch optimization for deep learning", 2020, where parameters
// without weight decay are not adapted; Adafactor: Shazeer and Stern, 2018, with relative steps of at most
// lr, as torch.optim's; AdamW8bit: kernels/quantised_adam.h; Muon: Jordan et al., 2024, its steps as large as
// AdamW's (Liu et al., "Muon is scalable for LLM training", 2025), and AdamW for what is no whole matrix.
// kernels/optimizer.h has the formulas of the others.
std::span<const Optimizer> optimizers();
const Optimizer& find_optimizer(std::string_view name);  // Error{invalid_argument}, lists the known ones

// average += (1 - decay) * (params - average).
void update_average(std::span<const float> params, std::span<float> average, double decay, int threads);

}  // namespace furrow::tensor
