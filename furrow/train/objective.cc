#include <ATen/ATen.h>
#include <fmt/format.h>

#include <array>
#include <string>
#include <utility>
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
  const tensor::ClassTerms terms{gradient != nullptr ? settings.label_smoothing : 0, settings.class_weights,
                                 in.gradient_type};
  const tensor::CrossEntropySums sums =
      in.over.axis == nullptr ? tensor::cross_entropy(in.output, in.target, gradient, threads, terms)
                              : tensor::cross_entropy(in.output, in.target, gradient,
                                                      {in.over.axis, in.over.classes, terms}, threads);
  return {sums.loss, sums.weight, sums.rows, sums.correct};
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
  return {sums.loss, sums.weight, sums.values, sums.correct};
}

LossSums binary(const ObjectiveSettings& settings, const LossInputs& in, at::Tensor* gradient, int threads) {
  refuse_parts(in.over, "binary");
  tensor::BinaryTerms terms;
  if (!settings.class_weights.empty()) terms = {settings.class_weights[0], settings.class_weights[1]};
  terms.pos_weight = settings.pos_weight;
  const tensor::PointwiseSums sums =
      tensor::binary_cross_entropy(in.output, in.target, gradient, threads, terms);
  return {sums.loss, sums.weight, sums.values, sums.correct};
}

// Evaluation has no teacher, and measures the cross-entropy.
LossSums distillation(const ObjectiveSettings& settings, const LossInputs& in, at::Tensor* gradient,
                      int threads) {
  if (!in.teacher.defined()) return cross_entropy(settings, in, gradient, threads);
  FURROW_CHECK(gradient != nullptr, "a teacher is there in training alone");
  const tensor::Teaching teaching{in.teacher, settings.temperature, settings.alpha, settings.label_smoothing};
  const tensor::CrossEntropySums sums =
      tensor::distillation(in.output, in.target, teaching, gradient, threads);
  return {sums.loss, sums.weight, sums.rows, sums.correct};
}

const std::array kObjectives = {
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

Objective make_objective(const config::Config& config, bool tokens, std::vector<float> class_weights) {
  const config::Training& training = config.training;
  std::string_view name = tokens ? "language_modelling" : "supervised";
  if (training.loss == "mse") name = "regression";
  if (training.loss == "binary") name = "binary";
  if (training.objective != "supervised") name = training.objective;
  Objective objective = find_objective(name);
  objective.settings = {training.label_smoothing, config.distillation.temperature, config.distillation.alpha,
                        std::move(class_weights), name == "binary" ? training.pos_weight : 1};
  return objective;
}

}  // namespace furrow::train
