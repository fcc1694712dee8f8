#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstring>

#include "furrow/base/error.h"
#include "furrow/tensor/composition_torch.h"
#include "furrow/tensor/flat_math_torch.h"
#include "furrow/tensor/kernels/half.h"
#include "furrow/tensor/norm.h"

namespace furrow::tensor {
namespace {

using kernels::bf16;
using kernels::f16;

template <class T>
T* elements(const Numbers& numbers) {
  return reinterpret_cast<T*>(numbers.data);
}

std::span<float> floats(const Numbers& numbers) {
  return {elements<float>(numbers), static_cast<size_t>(numbers.size)};
}

void convert(const Numbers& from, const Numbers& to, int threads) {
  const int64_t n = from.size;
  const bool narrows = from.type == DType::kF32;
  FURROW_CHECK(narrows != (to.type == DType::kF32), "numbers become float32, or come from it");
  if (to.type == DType::kBF16) return kernels::convert(n, elements<float>(from), elements<bf16>(to), threads);
  if (to.type == DType::kF16) return kernels::convert(n, elements<float>(from), elements<f16>(to), threads);
  if (from.type == DType::kBF16)
    return kernels::convert(n, elements<bf16>(from), elements<float>(to), threads);
  kernels::convert(n, elements<f16>(from), elements<float>(to), threads);
}

// Whole blocks of norm.h's grid at a time, as many as stay in a cache.
constexpr int64_t kWidenedAtATime = 1 << 14;

void add_squares_of_half(const Numbers& numbers, int threads, ExactSum* sum) {
  std::vector<float> wide(static_cast<size_t>(std::min(numbers.size, kWidenedAtATime)));
  for (int64_t begin = 0; begin < numbers.size; begin += kWidenedAtATime) {
    const int64_t count = std::min(kWidenedAtATime, numbers.size - begin);
    const std::span<float> values = std::span(wide).first(static_cast<size_t>(count));
    convert(numbers.part(begin, count), values, threads);
    add_sum_of_squares(values, threads, sum);
  }
}

class KernelMath final : public FlatMath {
 public:
  explicit KernelMath(int threads) : threads_(threads) {}

  void add(const Numbers& a, const Numbers& b, const Numbers& out) const override {
    FURROW_CHECK(a.type == out.type && b.type == out.type, "operands of a sum differ in type");
    FURROW_CHECK(a.size == out.size && b.size == out.size, "operands of a sum differ in size");
    if (out.type == DType::kF32) return tensor::add(floats(a), floats(b), floats(out), threads_);
    if (out.type == DType::kBF16)
      return kernels::add(out.size, elements<bf16>(a), elements<bf16>(b), elements<bf16>(out), threads_);
    kernels::add(out.size, elements<f16>(a), elements<f16>(b), elements<f16>(out), threads_);
  }
  void copy(const Numbers& from, const Numbers& to) const override {
    FURROW_CHECK(from.size == to.size, "a copy of another size");
    if (from.size == 0) return;
    if (from.type != to.type) return convert(from, to, threads_);
    std::memcpy(to.data, from.data, static_cast<size_t>(to.bytes()));
  }
  void zero(std::span<float> values) const override { std::ranges::fill(values, 0.0F); }
  void swap(std::span<float> a, std::span<float> b) const override { std::ranges::swap_ranges(a, b); }
  std::vector<ExactSum> sums_of_squares(std::span<const Numbers> parts) const override {
    std::vector<ExactSum> sums(parts.size());
    for (size_t i = 0; i < parts.size(); ++i) {
      if (parts[i].type == DType::kF32) {
        add_sum_of_squares(floats(parts[i]), threads_, &sums[i]);
      } else {
        add_squares_of_half(parts[i], threads_, &sums[i]);
      }
    }
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
