// Softmax cross-entropy from logits, its gradient and the count of right answers, in one pass over the rows.
//
// A row depends on that row alone: no result depends on threads or on other rows.  The gradient is of the SUM
// of the losses (softmax - onehot); the caller divides once by the exact count.  Thread safe.
//
// With label smoothing s the target is (1 - s) onehot + s / columns, as in PyTorch (Szegedy et al.,
// "Rethinking the Inception architecture for computer vision", 2016).
//
// With class weights w the loss of a row of target y, its log probabilities q, is
//   -(1 - s) w_y q_y - s / columns sum_c w_c q_c,
// as in PyTorch; it is the caller who divides by the sum of w_y.
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
  const float* weights = nullptr;    // [columns]; null: all 1
};

struct CrossEntropyCounts {
  int64_t counted = 0;  // rows that were not ignored
  int64_t correct = 0;  // first maximum of the row is the target
};
CrossEntropyCounts cross_entropy(const CrossEntropy& args, int threads);

// What a teacher says of the same rows besides: of row i the loss is
//   alpha T^2 KL(softmax(teacher / T) || softmax(logits / T)) + (1 - alpha) its cross-entropy,
// T the temperature (Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015, section
// 2: T^2 keeps the shares of the two gradients as T changes).  Of an ignored row both are 0.
struct Distillation {
  CrossEntropy plain;              // dlogits may not alias logits
  const float* teacher = nullptr;  // [rows, columns]
  float temperature = 1, alpha = 0;
};
CrossEntropyCounts distillation(const Distillation& args, int threads);

// Cross-entropy in three steps where the columns of a row lie on several ranks: each finds the largest of its
// own, the largest of all are known, each sums, the sums of all are known, each finishes.  Columns [0,
// columns) of rows that are `stride` apart are classes first, first + 1, ...; what is behind them is no
// class.
struct CrossEntropyPart {
  int64_t rows = 0, columns = 0, stride = 0, first = 0;
  const float* logits = nullptr;     // [rows, stride]
  const int64_t* targets = nullptr;  // [rows], of all classes
  float* maxima = nullptr;           // [rows]; -inf without a column
  double* sums = nullptr;    // [rows, 4]: exponentials, maximum - target, maximum - l of every column,
                             // columns before the target's that have the maximum; of an ignored row 0
  float* dlogits = nullptr;  // [rows, stride]; may be null and may alias logits
  int64_t classes = 0;       // of all ranks
  float* losses = nullptr;   // [rows]
  float smoothing = 0;
  const float* weights = nullptr;  // [classes]; null: all 1.  With them sums has w_c (maximum - l) of columns
};
void cross_entropy_maxima(const CrossEntropyPart& args, int threads);  // writes maxima
void cross_entropy_sums(const CrossEntropyPart& args, int threads);  // writes sums, exponentials into dlogits
CrossEntropyCounts cross_entropy_finish(const CrossEntropyPart& args, int threads);  // losses and dlogits

}  // namespace furrow::tensor::kernels
