#include <ATen/core/Tensor.h>

#include <algorithm>

#include "furrow/tensor/composition_torch.h"
#include "furrow/tensor/flat_math_torch.h"
#include "furrow/tensor/norm.h"

namespace furrow::tensor {
namespace {

class KernelMath final : public FlatMath {
 public:
  explicit KernelMath(int threads) : threads_(threads) {}

  void add(std::span<const float> a, std::span<const float> b, std::span<float> out) const override {
    tensor::add(a, b, out, threads_);
  }
  void copy(std::span<const float> from, std::span<float> to) const override {
    std::ranges::copy(from, to.begin());
  }
  void zero(std::span<float> values) const override { std::ranges::fill(values, 0.0F); }
  void swap(std::span<float> a, std::span<float> b) const override { std::ranges::swap_ranges(a, b); }
  std::vector<ExactSum> sums_of_squares(std::span<const std::span<const float>> parts) const override {
    std::vector<ExactSum> sums(parts.size());
    for (size_t i = 0; i < parts.size(); ++i) add_sum_of_squares(parts[i], threads_, &sums[i]);
    return sums;
  }
  void step(const Optimizer& optimizer, const OptimizerSpan& span,
            const StepParameters& parameters) const override {
    optimizer.step(span, parameters, threads_);
  }
  void update_average(std::span<const float> params, std::span<float> average, double decay) const override {
    tensor::update_average(params, average, decay, threads_);
  }

 private:
  int threads_;
};

}  // namespace

std::unique_ptr<FlatMath> flat_math_on(const at::Device& device, int threads) {
  if (composed(device)) return make_composed_flat_math(device);
  return std::make_unique<KernelMath>(threads);
}

}  // namespace furrow::tensor
