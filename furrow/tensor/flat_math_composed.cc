// Flat buffers on any device, by libtorch's own operations.
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "furrow/base/error.h"
#include "furrow/tensor/composed/steps_torch.h"
#include "furrow/tensor/composition_torch.h"
#include "furrow/tensor/dtype_torch.h"
#include "furrow/tensor/flat_math_torch.h"
#include "furrow/tensor/kernels/optimizer.h"

namespace furrow::tensor {
namespace {

using kernels::kGridElements;

class ComposedMath final : public FlatMath {
 public:
  explicit ComposedMath(const at::Device& device) : device_(device), maps_(device) {}

  void add(const Numbers& a, const Numbers& b, const Numbers& out) const override {
    if (out.size == 0) return;
    at::Tensor sum = here(out);
    at::add_out(sum, here(a), here(b));
  }
  void copy(const Numbers& from, const Numbers& to) const override {
    if (to.size > 0) here(to).copy_(here(from));
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
  std::vector<ExactSum> sums_of_squares(std::span<const Numbers> parts) const override {
    std::vector<at::Tensor> norms;
    std::vector<int64_t> blocks;
    for (const Numbers& part : parts) {
      const int64_t size = part.size, whole = size / kGridElements * kGridElements;
      if (whole > 0) norms.push_back(norms_of(here(part.part(0, whole)).view({-1, kGridElements})));
      if (size > whole) norms.push_back(norms_of(here(part.part(whole, size - whole)).view({1, -1})));
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
    const ComposedStep& row = composed_step(optimizer.name);
    StepOperands operands;
    operands.params = here(span.params);
    operands.gradient = here(span.gradient);
    if (parameters.gradient_factor != 1)
      operands.gradient = operands.gradient * static_cast<double>(parameters.gradient_factor);
    for (size_t s = 0; s < optimizer.states; ++s) operands.states[s] = here(span.states[s], row.codes[s]);
    operands.rows = span.rows;
    operands.whole = span.whole;
    operands.maps = &maps_;
    row.function(operands, parameters);
  }

  void update_average(std::span<const float> params, std::span<float> average, double decay) const override {
    if (!average.empty()) here(average).lerp_(here(params), 1 - decay);
  }

 private:
  static at::Tensor norms_of(const at::Tensor& rows) {
    return at::linalg_vector_norm(rows, 2, {1}, false, at::kDouble);
  }
  at::Tensor here(const Numbers& numbers) const {
    return at::from_blob(numbers.data, {numbers.size},
                         at::TensorOptions().dtype(scalar_type(numbers.type)).device(device_));
  }
  at::Tensor here(std::span<float> values) const { return over(values, device_); }
  at::Tensor here(std::span<const float> values) const {
    return over(std::span(const_cast<float*>(values.data()), values.size()), device_);
  }

  at::Tensor here(const StateSpan& state, bool codes) const {
    if (state.empty()) return {};
    if (!codes) return here(state.floats());
    return here(Numbers(DType::kU8, std::as_writable_bytes(state.codes()).data(),
                        static_cast<int64_t>(state.size())));
  }

  at::Device device_;
  QuantisationMaps maps_;
};

}  // namespace

std::unique_ptr<FlatMath> make_composed_flat_math(const at::Device& device) {
  return std::make_unique<ComposedMath>(device);
}

}  // namespace furrow::tensor
