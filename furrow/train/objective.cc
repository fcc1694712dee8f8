#include <fmt/format.h>

#include <array>
#include <string>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/names.h"
#include "furrow/config/training.h"
#include "furrow/tensor/loss_torch.h"
#include "furrow/train/objective_torch.h"

namespace furrow::train {
namespace {

// Over samples when the output is [batch, classes], over tokens when it is [batch, context, classes].
LossSums cross_entropy(const ObjectiveSettings& settings, const at::Tensor& output, const at::Tensor& target,
                       at::Tensor* gradient, int threads, const ClassesOver& over) {
  const double smoothing = gradient != nullptr ? settings.label_smoothing : 0;
  const tensor::CrossEntropySums sums =
      over.axis == nullptr
          ? tensor::cross_entropy(output, target, gradient, threads, smoothing)
          : tensor::cross_entropy(output, target, gradient, {over.axis, over.classes, smoothing}, threads);
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

LossSums squared_error(const ObjectiveSettings&, const at::Tensor& output, const at::Tensor& target,
                       at::Tensor* gradient, int threads, const ClassesOver& over) {
  refuse_parts(over, "mse");
  const tensor::PointwiseSums sums = tensor::squared_error(output, target, gradient, threads);
  return {sums.loss, sums.values, sums.correct};
}

LossSums binary(const ObjectiveSettings&, const at::Tensor& output, const at::Tensor& target,
                at::Tensor* gradient, int threads, const ClassesOver& over) {
  refuse_parts(over, "binary");
  const tensor::PointwiseSums sums = tensor::binary_cross_entropy(output, target, gradient, threads);
  return {sums.loss, sums.values, sums.correct};
}

constexpr std::array kObjectives = {
    Objective{"supervised", "samples", &cross_entropy},
    Objective{"language_modelling", "tokens", &cross_entropy},
    Objective{"regression", "values", &squared_error},
    Objective{"binary", "values", &binary},
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

Objective make_objective(const config::Training& training, bool tokens) {
  std::string_view name = tokens ? "language_modelling" : "supervised";
  if (training.loss == "mse") name = "regression";
  if (training.loss == "binary") name = "binary";
  Objective objective = find_objective(name);
  objective.settings.label_smoothing = training.label_smoothing;
  return objective;
}

}  // namespace furrow::train
