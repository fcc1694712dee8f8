// Softmax cross-entropy from logits, its gradient and the count of right answers, in one pass over the rows.
//
// A row depends on that row alone: no result depends on threads or on other rows.  The gradient is of the SUM
// of the losses (softmax - onehot); the caller divides once by the exact count.  Thread safe.
//
// With label smoothing s the target is (1 - s) onehot + s / columns, as in PyTorch (Szegedy et al.,
// "Rethinking the Inception architecture for computer vision", 2016).
#pragma once

#include <cstdint>

namespace furrow::tensor::kernels {

// Loss of row i: log(sum_j exp(l_ij - max)) + max - l_i,target, in double from fp32 exponentials, rounded
// once. A negative target means "ignore": loss 0, gradient 0, not counted.  REQUIRES: target < columns.
struct CrossEntropy {
  int64_t rows = 0, columns = 0;
  const float* logits = nullptr;
  const int64_t* targets = nullptr;  // [rows]
  float* losses = nullptr;           // [rows]; may be null
  float* dlogits = nullptr;          // may be null (evaluation) and may alias logits
  float smoothing = 0;               // [0, 1)
};

struct CrossEntropyCounts {
  int64_t counted = 0;  // rows that were not ignored
  int64_t correct = 0;  // first maximum of the row is the target
};
CrossEntropyCounts cross_entropy(const CrossEntropy& args, int threads);

}  // namespace furrow::tensor::kernels
