#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "furrow/base/error.h"
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
                               int /*threads*/) {
  const int64_t classes = logits.size(-1), rows = targets.numel();
  FURROW_CHECK(logits.numel() == rows * classes, "one target for each row of logits");
  const at::Tensor scores = logits.detach().contiguous().view({rows, classes});
  const at::Tensor wanted = targets.contiguous().view({rows});
  check_targets(wanted, classes);
  const at::Tensor log_probabilities = scores.log_softmax(-1);
  const at::Tensor losses = log_probabilities.gather(1, wanted.unsqueeze(1)).neg_();
  CrossEntropySums sums;
  sums.rows = rows;
  sums.correct = scores.argmax(-1).eq(wanted).sum().item<int64_t>();
  sums.loss.add_all({losses.const_data_ptr<float>(), static_cast<size_t>(rows)});
  if (gradient != nullptr) {
    at::Tensor probabilities = log_probabilities.exp();
    probabilities.scatter_add_(1, wanted.unsqueeze(1), at::full({rows, 1}, -1.0f));
    *gradient = probabilities.view(logits.sizes());
  }
  return sums;
}

}  // namespace furrow::tensor
