// Losses with their gradient in one pass, outside autograd.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "furrow/base/exact_sum.h"

namespace furrow::tensor {

inline constexpr int64_t kIgnoredTarget = -100;  // as in PyTorch

struct CrossEntropySums {
  ExactSum loss;        // of each row's loss as float32
  int64_t rows = 0;     // that count
  int64_t correct = 0;  // of them: arg max (the first of equals) is the target
};

// Softmax cross-entropy of `logits` [..., classes] against `targets` [...] (int64), summed over
// rows. `gradient`, when not null, receives d(sum)/d(logits) as float32.  With `smoothing` s in [0, 1) each
// target is (1 - s) onehot + s / classes.  A target kIgnoredTarget has no loss, no gradient and does not
// count. Error{invalid_argument}: any other target outside [0, classes), named.
CrossEntropySums cross_entropy(const at::Tensor& logits, const at::Tensor& targets, at::Tensor* gradient,
                               int threads, double smoothing = 0);

struct PointwiseSums {
  ExactSum loss;  // of each value's loss as float32
  int64_t values = 0;
  int64_t correct = 0;  // binary: logits on the side of their target
};

// (y - target)^2 and binary cross-entropy from logits, summed over values.  `output` is float32, `targets` of
// any type with as many values; `gradient`, when not null, receives d(sum)/d(output) as float32.
// Error{invalid_argument}: another number of values; binary: a target outside [0, 1].
PointwiseSums squared_error(const at::Tensor& output, const at::Tensor& targets, at::Tensor* gradient,
                            int threads);
PointwiseSums binary_cross_entropy(const at::Tensor& logits, const at::Tensor& targets, at::Tensor* gradient,
                                   int threads);

}  // namespace furrow::tensor
