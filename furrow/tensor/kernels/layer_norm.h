// Layer normalisation over the last dim: y = (x - mean) * rstd * gamma + beta, rstd = 1 / sqrt(var + eps),
// var the biased variance, as PyTorch.  Row sums run in 16 fixed lanes joined by a fixed tree; gamma's and
// beta's gradients are summed over blocks of 64 rows and the blocks in order, so no result depends on
// threads. Thread safe.  REQUIRES: rows >= 0, columns >= 1.
#pragma once

#include <cstdint>

namespace furrow::tensor::kernels {

// With `residual` not null the row normalised is x + residual, and that sum is written to `sum` (which may
// alias x or residual, and is what backward then takes as x).  beta may be null.
struct LayerNormForward {
  int64_t rows = 0, columns = 0;
  const float* x = nullptr;
  const float* residual = nullptr;
  float* sum = nullptr;
  const float* gamma = nullptr;
  const float* beta = nullptr;
  float eps = 1e-5f;
  float* y = nullptr;
  float* mean = nullptr;  // [rows], kept for backward; both may be null for inference
  float* rstd = nullptr;  // [rows]
};
void layer_norm_forward(const LayerNormForward& args, int threads);

// dx = backward(dy) (+ `add` when not null: the gradient that comes past the norm on the residual path).
// dx may alias dy or add.  dgamma and dbeta [columns] are written; dbeta may be null.
struct LayerNormBackward {
  int64_t rows = 0, columns = 0;
  const float* x = nullptr;
  const float* gamma = nullptr;
  const float* mean = nullptr;
  const float* rstd = nullptr;
  const float* dy = nullptr;
  const float* add = nullptr;
  float* dx = nullptr;
  float* dgamma = nullptr;
  float* dbeta = nullptr;
};
void layer_norm_backward(const LayerNormBackward& args, int threads);

}  // namespace furrow::tensor::kernels
