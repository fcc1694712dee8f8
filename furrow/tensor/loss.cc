#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <string_view>

#include "furrow/base/error.h"
#include "furrow/tensor/half_torch.h"
#include "furrow/tensor/kernels/cross_entropy.h"
#include "furrow/tensor/kernels/pointwise_losses.h"
#include "furrow/tensor/loss_torch.h"
#include "furrow/tensor/tensor_axis_torch.h"

namespace furrow::tensor {
namespace {

void check_targets(const at::Tensor& targets, int64_t classes) {
  const std::span<const int64_t> all(targets.const_data_ptr<int64_t>(), static_cast<size_t>(targets.numel()));
  const auto bad = std::ranges::find_if(
      all, [&](int64_t target) { return (target < 0 && target != kIgnoredTarget) || target >= classes; });
  if (bad != all.end()) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("target {} of row {} is outside the {} classes of the model's output: check the labels",
                    *bad, bad - all.begin(), classes));
  }
}

// The operands of a loss of one number each, dense, and where its losses go.
struct Values {
  at::Tensor output, targets, losses;
};

Values values_of(std::string_view loss, const at::Tensor& output, const at::Tensor& targets,
                 at::Tensor* gradient, int threads) {
  FURROW_CHECK(is_number(output), "a loss reads numbers");
  if (output.numel() != targets.numel()) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("loss {} compares one target with one output, but the model gives {} values for {} "
                    "targets: change [training] loss, or the data's target",
                    loss, output.numel(), targets.numel()));
  }
  Values v{widened(output, threads), targets.to(at::kFloat).contiguous(), {}};
  v.losses = at::empty_like(v.output);
  if (gradient != nullptr) *gradient = at::empty_like(v.output);
  return v;
}

void check_probabilities(const at::Tensor& targets) {
  const std::span<const float> all(targets.const_data_ptr<float>(), static_cast<size_t>(targets.numel()));
  const auto bad = std::ranges::find_if(all, [](float t) { return !(t >= 0 && t <= 1); });
  if (bad != all.end()) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("target {} of value {} is outside [0, 1], which the binary loss needs: check the labels",
                    *bad, bad - all.begin()));
  }
}

PointwiseSums sums_of(const Values& v, int64_t correct) {
  PointwiseSums sums;
  sums.values = v.output.numel();
  sums.correct = correct;
  sums.loss.add_all(std::span(v.losses.const_data_ptr<float>(), static_cast<size_t>(sums.values)));
  return sums;
}

}  // namespace

CrossEntropySums cross_entropy(const at::Tensor& logits, const at::Tensor& targets, at::Tensor* gradient,
                               int threads, double smoothing) {
  FURROW_CHECK(is_number(logits) && targets.scalar_type() == at::kLong && logits.dim() >= 1,
               "cross_entropy reads numbers as logits and int64 targets");
  const int64_t classes = logits.size(-1), rows = targets.numel();
  FURROW_CHECK(logits.numel() == rows * classes, "one target for each row of logits");
  const at::Tensor scores = widened(logits, threads), wanted = targets.contiguous();
  check_targets(wanted, classes);
  const at::Tensor losses = at::empty({rows}, scores.options());
  if (gradient != nullptr) *gradient = at::empty_like(scores);
  kernels::CrossEntropy args;
  args.rows = rows;
  args.columns = classes;
  args.logits = scores.const_data_ptr<float>();
  args.targets = wanted.const_data_ptr<int64_t>();
  args.losses = losses.data_ptr<float>();
  args.dlogits = gradient != nullptr ? gradient->data_ptr<float>() : nullptr;
  args.smoothing = static_cast<float>(smoothing);
  CrossEntropySums sums;
  const kernels::CrossEntropyCounts counts = kernels::cross_entropy(args, threads);
  sums.rows = counts.counted;
  sums.correct = counts.correct;
  sums.loss.add_all(std::span(losses.const_data_ptr<float>(), static_cast<size_t>(rows)));
  return sums;
}

CrossEntropySums cross_entropy(const at::Tensor& logits, const at::Tensor& targets, at::Tensor* gradient,
                               const CutClasses& cut, int threads) {
  if (cut.axis == nullptr || cut.axis->size() == 1)
    return cross_entropy(logits, targets, gradient, threads, cut.smoothing);
  const int64_t rows = targets.numel(), part = logits.size(-1);
  FURROW_CHECK(is_number(logits) && targets.scalar_type() == at::kLong && logits.numel() == rows * part,
               "cross_entropy reads numbers as logits and one int64 target for each row of them");
  const at::Tensor scores = widened(logits, threads), wanted = targets.contiguous();
  check_targets(wanted, cut.classes);
  const at::Tensor losses = at::empty({rows}, scores.options()), maxima = at::empty_like(losses);
  const at::Tensor sums = at::empty({rows, 4}, scores.options().dtype(at::kDouble));
  if (gradient != nullptr) *gradient = at::empty_like(scores);
  kernels::CrossEntropyPart args;
  args.rows = rows;
  args.stride = part;
  args.first = cut.axis->rank() * part;
  args.columns = std::clamp<int64_t>(cut.classes - args.first, 0, part);
  args.logits = scores.const_data_ptr<float>();
  args.targets = wanted.const_data_ptr<int64_t>();
  args.maxima = maxima.data_ptr<float>();
  args.sums = sums.data_ptr<double>();
  args.dlogits = gradient != nullptr ? gradient->data_ptr<float>() : nullptr;
  args.classes = cut.classes;
  args.losses = losses.data_ptr<float>();
  args.smoothing = static_cast<float>(cut.smoothing);
  kernels::cross_entropy_maxima(args, threads);
  cut.axis->all_reduce(maxima, AxisCollective::Reduction::kMax);
  kernels::cross_entropy_sums(args, threads);
  cut.axis->all_reduce(sums);
  const kernels::CrossEntropyCounts counts = kernels::cross_entropy_finish(args, threads);
  CrossEntropySums result{{}, counts.counted, counts.correct};
  result.loss.add_all(std::span(losses.const_data_ptr<float>(), static_cast<size_t>(rows)));
  return result;
}

PointwiseSums squared_error(const at::Tensor& output, const at::Tensor& targets, at::Tensor* gradient,
                            int threads) {
  const Values v = values_of("mse", output, targets, gradient, threads);
  kernels::squared_error(v.output.numel(), v.output.const_data_ptr<float>(),
                         v.targets.const_data_ptr<float>(), v.losses.data_ptr<float>(),
                         gradient != nullptr ? gradient->data_ptr<float>() : nullptr, threads);
  return sums_of(v, 0);
}

PointwiseSums binary_cross_entropy(const at::Tensor& logits, const at::Tensor& targets, at::Tensor* gradient,
                                   int threads) {
  const Values v = values_of("binary", logits, targets, gradient, threads);
  check_probabilities(v.targets);
  const int64_t correct = kernels::binary_cross_entropy(
      v.output.numel(), v.output.const_data_ptr<float>(), v.targets.const_data_ptr<float>(),
      v.losses.data_ptr<float>(), gradient != nullptr ? gradient->data_ptr<float>() : nullptr, threads);
  return sums_of(v, correct);
}

}  // namespace furrow::tensor
