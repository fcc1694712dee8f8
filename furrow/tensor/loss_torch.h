// Losses with their gradient in one pass, outside autograd.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "furrow/base/exact_sum.h"

namespace furrow::tensor {

struct CrossEntropySums {
  ExactSum loss;  // of each row's loss as float32
  int64_t rows = 0;
  int64_t correct = 0;  // arg max (the first of equals) is the target
};

// Softmax cross-entropy of `logits` [..., classes] (float32) against `targets` [...] (int64), summed over
// rows. `gradient`, when not null, receives d(sum)/d(logits).  Error{invalid_argument}: a target outside [0,
// classes), named.
CrossEntropySums cross_entropy(const at::Tensor& logits, const at::Tensor& targets, at::Tensor* gradient,
                               int threads);

}  // namespace furrow::tensor
