#include <ATen/ATen.h>
#include <fmt/format.h>

#include <array>
#include <string>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/names.h"
#include "furrow/config/config.h"
#include "furrow/tensor/loss_torch.h"
#include "furrow/train/objective_torch.h"

namespace furrow::train {
namespace {

// Over samples when the output is [batch, classes], over tokens when it is [batch, context, classes].
LossSums cross_entropy(const ObjectiveSettings& settings, const LossInputs& in, at::Tensor* gradient,
                       int threads) {
  const double smoothing = gradient != nullptr ? settings.label_smoothing : 0;
  const tensor::CrossEntropySums sums =
      in.over.axis == nullptr ? tensor::cross_entropy(in.output, in.target, gradient, threads, smoothing)
                              : tensor::cross_entropy(in.output, in.target, gradient,
                                                      {in.over.axis, in.over.classes, smoothing}, threads);
  return {sums.loss, sums.rows, sums.correct};
}

// Of these losses no values travel between ranks.
void refuse_parts(const ClassesOver& over, std::string_view loss) {
  if (over.axis == nullptr) return;
  throw Error(ErrorCode::kUnimplemented,
              fmt::format("[training] loss \"{}\" needs the whole output: set [parallelism] "
                          "tensor_parallel_degree to 1",
                          loss));
}

LossSums squared_error(const ObjectiveSettings&, const LossInputs& in, at::Tensor* gradient, int threads) {
  refuse_parts(in.over, "mse");
  const tensor::PointwiseSums sums = tensor::squared_error(in.output, in.target, gradient, threads);
  return {sums.loss, sums.values, sums.correct};
}

LossSums binary(const ObjectiveSettings&, const LossInputs& in, at::Tensor* gradient, int threads) {
  refuse_parts(in.over, "binary");
  const tensor::PointwiseSums sums = tensor::binary_cross_entropy(in.output, in.target, gradient, threads);
  return {sums.loss, sums.values, sums.correct};
}

// Evaluation has no teacher, and measures the cross-entropy.
LossSums distillation(const ObjectiveSettings& settings, const LossInputs& in, at::Tensor* gradient,
                      int threads) {
  if (!in.teacher.defined()) return cross_entropy(settings, in, gradient, threads);
  FURROW_CHECK(gradient != nullptr, "a teacher is there in training alone");
  const tensor::Teaching teaching{in.teacher, settings.temperature, settings.alpha, settings.label_smoothing};
  const tensor::CrossEntropySums sums =
      tensor::distillation(in.output, in.target, teaching, gradient, threads);
  return {sums.loss, sums.rows, sums.correct};
}

constexpr std::array kObjectives = {
    Objective{"supervised", "samples", &cross_entropy},
    Objective{"language_modelling", "tokens", &cross_entropy},
    Objective{"regression", "values", &squared_error},
    Objective{"binary", "values", &binary},
    Objective{"gan", "samples", &binary},  // heads with labels of their own: the model's, models/gan.cc
    Objective{"distillation", "samples", &distillation},
};

}  // namespace

std::span<const Objective> objectives() { return kObjectives; }

const Objective& find_objective(std::string_view name) {
  std::vector<std::string> known;
  for (const Objective& objective : kObjectives) {
    if (objective.name == name) return objective;
    known.emplace_back(objective.name);
  }
  throw Error(ErrorCode::kInvalidArgument, unknown_name_message("objective", name, known));
}

Objective make_objective(const config::Config& config, bool tokens) {
  const config::Training& training = config.training;
  std::string_view name = tokens ? "language_modelling" : "supervised";
  if (training.loss == "mse") name = "regression";
  if (training.loss == "binary") name = "binary";
  if (training.objective != "supervised") name = training.objective;
  Objective objective = find_objective(name);
  objective.settings = {training.label_smoothing, config.distillation.temperature, config.distillation.alpha};
  return objective;
}

}  // namespace furrow::train
