#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <span>

#include "furrow/base/error.h"
#include "furrow/tensor/kernels/cross_entropy.h"
#include "furrow/tensor/loss_torch.h"

namespace furrow::tensor {
namespace {

void check_targets(const at::Tensor& targets, int64_t classes) {
  const std::span<const int64_t> all(targets.const_data_ptr<int64_t>(), static_cast<size_t>(targets.numel()));
  const auto bad = std::ranges::find_if(all, [&](int64_t target) { return target < 0 || target >= classes; });
  if (bad != all.end()) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("target {} of row {} is outside the {} classes of the model's output: check the labels",
                    *bad, bad - all.begin(), classes));
  }
}

}  // namespace

CrossEntropySums cross_entropy(const at::Tensor& logits, const at::Tensor& targets, at::Tensor* gradient,
                               int threads) {
  FURROW_CHECK(logits.scalar_type() == at::kFloat && targets.scalar_type() == at::kLong && logits.dim() >= 1,
               "cross_entropy reads float32 logits and int64 targets");
  const int64_t classes = logits.size(-1), rows = targets.numel();
  FURROW_CHECK(logits.numel() == rows * classes, "one target for each row of logits");
  const at::Tensor scores = logits.detach().contiguous(), wanted = targets.contiguous();
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
  CrossEntropySums sums;
  sums.rows = rows;
  sums.correct = kernels::cross_entropy(args, threads).correct;
  sums.loss.add_all(std::span(losses.const_data_ptr<float>(), static_cast<size_t>(rows)));
  return sums;
}

}  // namespace furrow::tensor
