// What a training loop does to flat buffers beside operations: the rows of one table, our kernels' and that
// of every other device.
//
// Spans are of the device's memory: host code reads and writes none of their elements.  Thread safe.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "furrow/base/array.h"
#include "furrow/base/exact_sum.h"
#include "furrow/tensor/optimizer.h"

namespace furrow::tensor {

// Elements of a flat buffer: float32, bfloat16 or float16.  A view.
struct Numbers {
  DType type = DType::kF32;
  std::byte* data = nullptr;
  int64_t size = 0;

  Numbers() = default;
  Numbers(DType type_in, std::byte* data_in, int64_t size_in) : type(type_in), data(data_in), size(size_in) {}
  Numbers(std::span<float> values)  // NOLINT(google-explicit-constructor): what most buffers hold
      : data(std::as_writable_bytes(values).data()), size(static_cast<int64_t>(values.size())) {}

  int64_t bytes() const { return size * static_cast<int64_t>(dtype_size(type)); }
  Numbers part(int64_t begin, int64_t count) const {
    return {type, data + begin * static_cast<int64_t>(dtype_size(type)), count};
  }
};

class FlatMath {
 public:
  virtual ~FlatMath() = default;

  // Of one type; of 16 bits, the float32 sum is rounded, to nearest even.  out may be a or b.
  virtual void add(const Numbers& a, const Numbers& b, const Numbers& out) const = 0;
  // Between types it converts, rounding to nearest even.
  virtual void copy(const Numbers& from, const Numbers& to) const = 0;
  virtual void zero(std::span<float> values) const = 0;
  virtual void swap(std::span<float> a, std::span<float> b) const = 0;
  // norm.h's, of each of them.  REQUIRES: as there.
  virtual std::vector<ExactSum> sums_of_squares(std::span<const Numbers> parts) const = 0;
  virtual void step(const Optimizer& optimizer, const OptimizerSpan& span,
                    const StepParameters& parameters) const = 0;
  virtual void update_average(std::span<const float> params, std::span<float> average,
                              double decay) const = 0;
};

// The row of the device, or of compositions on the CPU in their scope (composition_torch.h).  `threads`: of
// kernels.
std::unique_ptr<FlatMath> flat_math_on(const at::Device& device, int threads);

std::unique_ptr<FlatMath> make_composed_flat_math(const at::Device& device);  // a row of the table

}  // namespace furrow::tensor
