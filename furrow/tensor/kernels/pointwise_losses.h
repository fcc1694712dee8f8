// Losses of one number each, with the gradient of their SUM.  An element depends on that element alone: no
// result depends on threads.  `gradient` may be null (evaluation) and may alias the first operand.  Thread
// safe.
#pragma once

#include <cstdint>

namespace furrow::tensor::kernels {

// losses[i] = (y_i - target_i)^2.
void squared_error(int64_t n, const float* y, const float* target, float* losses, float* gradient,
                   int threads);

// losses[i] = -p t log(sigmoid(x)) - q (1 - t) log(1 - sigmoid(x)) of the logit x_i and the target t_i in [0,
// 1], as c max(x, 0) - p t x + c log(1 + exp(-|x|)), c = p t + q (1 - t), in double, rounded once; the
// gradient is c sigmoid(x) - p t.  Returns how many logits lie on the side of their target: x > 0 where t >
// 1/2, x <= 0 elsewhere.
struct BinaryCrossEntropy {
  int64_t n = 0;
  const float* logits = nullptr;
  const float* targets = nullptr;
  float* losses = nullptr;
  float* gradient = nullptr;
  double positive = 1, negative = 1;  // p, q
};
int64_t binary_cross_entropy(const BinaryCrossEntropy& args, int threads);

}  // namespace furrow::tensor::kernels
