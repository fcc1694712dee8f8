// Flat buffers on any device, by libtorch's own operations.
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "furrow/base/error.h"
#include "furrow/tensor/composition_torch.h"
#include "furrow/tensor/flat_math_torch.h"
#include "furrow/tensor/kernels/optimizer.h"

namespace furrow::tensor {
namespace {

using kernels::kGridElements;

// A step's operands, one-dimensional.
struct Operands {
  at::Tensor params, gradient;  // the gradient is a copy, times its factor
  std::array<at::Tensor, 2> states;
};

void sgd(const Operands& o, const StepParameters& p) {
  const bool with_momentum = o.states[0].defined();
  const at::TensorList buffers = with_momentum ? at::TensorList(o.states[0]) : at::TensorList();
  at::_fused_sgd_(o.params, o.gradient, buffers, p.weight_decay, with_momentum ? p.momentum : 0, p.lr,
                  /*dampening=*/0, p.nesterov && with_momentum, /*maximize=*/false, p.step == 1);
}

at::Tensor steps_of(const Operands& o, const StepParameters& p) {
  return at::full({}, static_cast<double>(p.step), o.params.options());
}

void adam(const Operands& o, const StepParameters& p) {
  at::_fused_adam_(o.params, o.gradient, o.states[0], o.states[1], {}, steps_of(o, p), p.lr, p.beta1, p.beta2,
                   p.weight_decay, p.eps, /*amsgrad=*/false, /*maximize=*/false);
}

void adamw(const Operands& o, const StepParameters& p) {
  at::_fused_adamw_(o.params, o.gradient, o.states[0], o.states[1], {}, steps_of(o, p), p.lr, p.beta1,
                    p.beta2, p.weight_decay, p.eps, /*amsgrad=*/false, /*maximize=*/false);
}

void lion(const Operands& o, const StepParameters& p) {
  o.params.mul_(1 - p.lr * p.weight_decay);
  o.params.sub_(at::sign(o.states[0] * p.beta1 + o.gradient * (1 - p.beta1)), p.lr);
  o.states[0].mul_(p.beta2).add_(o.gradient, 1 - p.beta2);
}

struct Step {
  std::string_view optimizer;
  void (*function)(const Operands& operands, const StepParameters& parameters);
};
constexpr Step kSteps[] = {{"adam", &adam}, {"adamw", &adamw}, {"lion", &lion}, {"sgd", &sgd}};

class ComposedMath final : public FlatMath {
 public:
  explicit ComposedMath(const at::Device& device) : device_(device) {}

  void add(std::span<const float> a, std::span<const float> b, std::span<float> out) const override {
    if (out.empty()) return;
    at::Tensor sum = here(out);
    at::add_out(sum, here(a), here(b));
  }
  void copy(std::span<const float> from, std::span<float> to) const override {
    if (!to.empty()) here(to).copy_(here(from));
  }
  void zero(std::span<float> values) const override {
    if (!values.empty()) here(values).zero_();
  }
  void swap(std::span<float> a, std::span<float> b) const override {
    if (a.empty()) return;
    const at::Tensor kept = here(a).clone();
    here(a).copy_(here(b));
    here(b).copy_(kept);
  }

  // All are under way before the first is waited for.
  std::vector<ExactSum> sums_of_squares(std::span<const std::span<const float>> parts) const override {
    std::vector<at::Tensor> norms;
    std::vector<int64_t> blocks;
    for (const std::span<const float> part : parts) {
      const auto size = static_cast<int64_t>(part.size()), whole = size / kGridElements * kGridElements;
      if (whole > 0)
        norms.push_back(norms_of(here(part.first(static_cast<size_t>(whole))).view({-1, kGridElements})));
      if (size > whole)
        norms.push_back(norms_of(here(part.subspan(static_cast<size_t>(whole))).view({1, -1})));
      blocks.push_back(kernels::grid_blocks(size));
    }
    std::vector<ExactSum> sums(parts.size());
    if (norms.empty()) return sums;
    const at::Tensor squares = on_host(at::cat(norms).square_());
    const double* next = squares.const_data_ptr<double>();
    for (size_t i = 0; i < parts.size(); ++i, next += blocks[i - 1])
      sums[i].add_all(std::span(next, static_cast<size_t>(blocks[i])));
    return sums;
  }

  void step(const Optimizer& optimizer, const OptimizerSpan& span,
            const StepParameters& parameters) const override {
    if (span.params.empty()) return;
    const auto found = std::ranges::find(kSteps, optimizer.name, &Step::optimizer);
    if (found == std::end(kSteps))
      throw Error(ErrorCode::kUnimplemented, fmt::format("{} steps on the CPU alone", optimizer.name));
    Operands operands;
    operands.params = here(span.params);
    operands.gradient = here(span.gradient) * static_cast<double>(parameters.gradient_factor);
    for (size_t s = 0; s < operands.states.size(); ++s) {
      if (!span.states[s].empty()) operands.states[s] = here(span.states[s].floats());
    }
    found->function(operands, parameters);
  }

  void update_average(std::span<const float> params, std::span<float> average, double decay) const override {
    if (!average.empty()) here(average).lerp_(here(params), 1 - decay);
  }

 private:
  static at::Tensor norms_of(const at::Tensor& rows) {
    return at::linalg_vector_norm(rows, 2, {1}, false, at::kDouble);
  }
  at::Tensor here(std::span<float> values) const { return over(values, device_); }
  at::Tensor here(std::span<const float> values) const {
    return over(std::span(const_cast<float*>(values.data()), values.size()), device_);
  }

  at::Device device_;
};

}  // namespace

std::unique_ptr<FlatMath> make_composed_flat_math(const at::Device& device) {
  return std::make_unique<ComposedMath>(device);
}

bool steps_on_devices(std::string_view optimizer) {
  return std::ranges::find(kSteps, optimizer, &Step::optimizer) != std::end(kSteps);
}

}  // namespace furrow::tensor
