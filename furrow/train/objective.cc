#include <array>
#include <string>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/names.h"
#include "furrow/tensor/loss_torch.h"
#include "furrow/train/objective_torch.h"

namespace furrow::train {
namespace {

// Over samples when the output is [batch, classes], over tokens when it is [batch, context, classes].
LossSums cross_entropy(const at::Tensor& output, const at::Tensor& target, at::Tensor* gradient,
                       int threads) {
  const tensor::CrossEntropySums sums = tensor::cross_entropy(output, target, gradient, threads);
  return {sums.loss, sums.rows, sums.correct};
}

constexpr std::array kObjectives = {
    Objective{"supervised", "samples", &cross_entropy},
    Objective{"language_modelling", "tokens", &cross_entropy},
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

}  // namespace furrow::train
