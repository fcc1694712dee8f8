// Losses with their gradient in one pass, outside autograd.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "furrow/base/exact_sum.h"

namespace furrow::tensor {

class TensorAxis;

inline constexpr int64_t kIgnoredTarget = -100;  // as in PyTorch

struct CrossEntropySums {
  ExactSum loss;        // of each row's loss as float32
  ExactSum weight;      // of each row's weight as float32: what a mean divides by
  int64_t rows = 0;     // that count
  int64_t correct = 0;  // of them: arg max (the first of equals) is the target
};

// Softmax cross-entropy of `logits` [..., classes] against `targets` [...] (int64), summed over
// rows. `gradient`, when not null, receives d(sum)/d(logits) as float32 (or `gradient_type`).  With
// `smoothing` s in [0, 1) each target is (1 - s) onehot + s / classes.  With `weights`, one for each class,
// the terms of class c are multiplied with its weight (kernels/cross_entropy.h), and a row weighs what its
// target does.  A target kIgnoredTarget has no loss, no gradient and does not count. Error{invalid_argument}:
// any other target outside [0, classes), named.
struct ClassTerms {
  double smoothing = 0;
  std::span<const float> weights = {};        // none: all 1
  at::ScalarType gradient_type = at::kFloat;  // what a composition may round the gradient to
};
CrossEntropySums cross_entropy(const at::Tensor& logits, const at::Tensor& targets, at::Tensor* gradient,
                               int threads, const ClassTerms& terms = {});

// What a teacher says of the same rows besides (kernels/cross_entropy.h: Distillation): losses and gradient
// are of both, rows and correct ones as above.  `teacher` is of logits' shape, of numbers.
struct Teaching {
  const at::Tensor& teacher;
  double temperature = 1, alpha = 0, smoothing = 0;
};
CrossEntropySums distillation(const at::Tensor& logits, const at::Tensor& targets, const Teaching& teaching,
                              at::Tensor* gradient, int threads);

// Cross-entropy where the ranks of `axis` have the logits: `logits` [..., part] are this rank's of `classes`,
// the part that a tensor axis cuts (plan/model_spec.h), what is behind the last class is ignored and has
// gradient 0.  `targets` are whole, the sums those of all classes, equal on every rank.  Two all-reduces: a
// float32 and four float64 of each row; no logit travels.  Over one rank, and with axis null, it is the one
// above.
struct CutClasses {
  TensorAxis* axis = nullptr;
  int64_t classes = 0;
  ClassTerms terms = {};
};
CrossEntropySums cross_entropy(const at::Tensor& logits, const at::Tensor& targets, at::Tensor* gradient,
                               const CutClasses& cut, int threads);

struct PointwiseSums {
  ExactSum loss;    // of each value's loss as float32
  ExactSum weight;  // of each value: what a mean divides by
  int64_t values = 0;
  int64_t correct = 0;  // binary: logits on the side of their target
};

// (y - target)^2 and binary cross-entropy from logits, summed over values.  `output` is float32, `targets` of
// any type with as many values; `gradient`, when not null, receives d(sum)/d(output) as float32.  Of binary
// the terms of a class are multiplied with its weight, those of the second class with pos_weight besides; a
// value of target t weighs first (1 - t) + second t, whatever pos_weight is.
// Error{invalid_argument}: another number of values; binary: a target outside [0, 1].
struct BinaryTerms {
  double first = 1, second = 1, pos_weight = 1;
};
PointwiseSums squared_error(const at::Tensor& output, const at::Tensor& targets, at::Tensor* gradient,
                            int threads);
PointwiseSums binary_cross_entropy(const at::Tensor& logits, const at::Tensor& targets, at::Tensor* gradient,
                                   int threads, const BinaryTerms& terms = {});

}  // namespace furrow::tensor
