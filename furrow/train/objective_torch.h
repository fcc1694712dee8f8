// Objectives: from a unit's output and the batch's target to exact sums of loss, and the gradient of the
// *sum*.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "furrow/train/sums.h"

namespace furrow::config {
struct Config;
}

namespace furrow::tensor {
class TensorAxis;
}

namespace furrow::train {

// Where the ranks of an axis have a part of the classes each; null: the output is whole.
struct ClassesOver {
  tensor::TensorAxis* axis = nullptr;
  int64_t classes = 0;  // of the whole
};

// What the rows of the table may be given.
struct ObjectiveSettings {
  double label_smoothing =
      0;  // cross-entropy: of the loss that is trained on; evaluation measures the plain one
  double temperature = 1, alpha = 0;      // distillation
  std::vector<float> class_weights = {};  // cross-entropy, binary: one for each class; none: all 1
  double pos_weight = 1;                  // binary
};

// What a head judges.
struct LossInputs {
  const at::Tensor &output, &target;
  at::Tensor teacher = {};  // the teacher's output for the same samples; undefined: there is none
  ClassesOver over = {};
  at::ScalarType gradient_type = at::kFloat;  // which the gradient may be rounded to at once
};

struct Objective {
  std::string_view name;  // "supervised", "language_modelling", "regression", "binary", "gan", "distillation"
  std::string_view counts;  // "samples", "tokens", "values"
  LossSums (*function)(const ObjectiveSettings& settings, const LossInputs& inputs, at::Tensor* gradient,
                       int threads);
  ObjectiveSettings settings = {};

  // `gradient`, when not null, receives d(sum of losses)/d(output), of output's shape, as float32 or
  // rounded to `gradient_type`.  The sums
  // are those of all classes, on every rank of the axis alike.
  LossSums loss(const LossInputs& inputs, at::Tensor* gradient, int threads) const {
    return function(settings, inputs, gradient, threads);
  }
  LossSums loss(const at::Tensor& output, const at::Tensor& target, at::Tensor* gradient, int threads) const {
    return loss({output, target}, gradient, threads);
  }
};

std::span<const Objective> objectives();
const Objective& find_objective(std::string_view name);  // Error{invalid_argument}, lists the known ones

// The row that [training] names over this data, with its settings.  `tokens`: the samples are token ids;
// `class_weights` as class_weights.h has them.
Objective make_objective(const config::Config& config, bool tokens, std::vector<float> class_weights = {});

}  // namespace furrow::train
