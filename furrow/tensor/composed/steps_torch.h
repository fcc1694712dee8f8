// The steps of optimizers as compositions: one row for every row of optimizer.cc.  Internal to tensor.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <string_view>

#include "furrow/tensor/optimizer.h"

namespace furrow::tensor {

// What adamw8bit's codes stand for, on a device: by code its value, by magnitude the border to the next.
struct QuantisationMaps {
  explicit QuantisationMaps(const at::Device& device);
  at::Tensor signed_values, unsigned_values;    // [256]
  at::Tensor signed_borders, unsigned_borders;  // [128], [255]
};

// A step's operands, one-dimensional.
struct StepOperands {
  at::Tensor params, gradient;       // the gradient is a copy, times its factor
  std::array<at::Tensor, 4> states;  // undefined where there is none
  int64_t rows = 0;                  // of a whole matrix; else 0
  bool whole = false;                // a whole parameter
  const QuantisationMaps* maps = nullptr;
};

struct ComposedStep {
  std::string_view optimizer;
  void (*function)(const StepOperands& operands, const StepParameters& parameters);
  std::array<bool, 4> codes = {};  // states of bytes
};
const ComposedStep& composed_step(std::string_view optimizer);  // FURROW_CHECK: every optimizer has one

}  // namespace furrow::tensor
