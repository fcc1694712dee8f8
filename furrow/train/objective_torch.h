// Objectives: from a unit's output and the batch's target to exact sums of loss, and the gradient of the
// *sum*.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <string_view>

#include "furrow/train/sums.h"

namespace furrow::train {

struct Objective {
  std::string_view name;    // "supervised", "language_modelling"
  std::string_view counts;  // "samples", "tokens"
  // `gradient`, when not null, receives d(sum of losses)/d(output), of output's shape.
  LossSums (*loss)(const at::Tensor& output, const at::Tensor& target, at::Tensor* gradient, int threads);
};

std::span<const Objective> objectives();
const Objective& find_objective(std::string_view name);  // Error{invalid_argument}, lists the known ones

}  // namespace furrow::train
