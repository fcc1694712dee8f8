// What a training loop does to flat buffers beside operations: the rows of one table, our kernels' and that
// of every other device.
//
// Spans are of the device's memory: host code reads and writes none of their elements.  Thread safe.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "furrow/base/exact_sum.h"
#include "furrow/tensor/optimizer.h"

namespace furrow::tensor {

class FlatMath {
 public:
  virtual ~FlatMath() = default;

  virtual void add(std::span<const float> a, std::span<const float> b, std::span<float> out) const = 0;
  virtual void copy(std::span<const float> from, std::span<float> to) const = 0;
  virtual void zero(std::span<float> values) const = 0;
  virtual void swap(std::span<float> a, std::span<float> b) const = 0;
  // norm.h's, of each of them.  REQUIRES: as there.
  virtual std::vector<ExactSum> sums_of_squares(std::span<const std::span<const float>> parts) const = 0;
  virtual void step(const Optimizer& optimizer, const OptimizerSpan& span,
                    const StepParameters& parameters) const = 0;
  virtual void update_average(std::span<const float> params, std::span<float> average,
                              double decay) const = 0;
};

// The row of the device, or of compositions on the CPU in their scope (composition_torch.h).  `threads`: of
// kernels.
std::unique_ptr<FlatMath> flat_math_on(const at::Device& device, int threads);

// Whether an optimizer has a step as a composition; of the others step() is Error{unimplemented}.
bool steps_on_devices(std::string_view optimizer);

std::unique_ptr<FlatMath> make_composed_flat_math(const at::Device& device);  // a row of the table

}  // namespace furrow::tensor
