// Root-mean-square normalisation over the last dim: y = x * rrms * gamma, rrms = 1 / sqrt(mean(x^2) + eps)
// (Zhang and Sennrich, "Root mean square layer normalization", 2019), as Llama has it.  Row sums run in 16
// fixed lanes joined by a fixed tree; gamma's gradient is summed over blocks of 64 rows and the blocks in
// order, so no result depends on threads.  Thread safe.  REQUIRES: rows >= 0, columns >= 1.
#pragma once

#include <cstdint>

namespace furrow::tensor::kernels {

struct RmsNormForward {
  int64_t rows = 0, columns = 0;
  const float* x = nullptr;
  const float* gamma = nullptr;
  float eps = 1e-5f;
  float* y = nullptr;
  float* rrms = nullptr;  // [rows], kept for backward; may be null for inference
};
void rms_norm_forward(const RmsNormForward& args, int threads);

// dx = backward(dy) (+ `add` when not null: the gradient that comes past the norm on the residual path).
// dx may alias dy or add.  dgamma [columns] is written.
struct RmsNormBackward {
  int64_t rows = 0, columns = 0;
  const float* x = nullptr;
  const float* gamma = nullptr;
  const float* rrms = nullptr;
  const float* dy = nullptr;
  const float* add = nullptr;
  float* dx = nullptr;
  float* dgamma = nullptr;
};
void rms_norm_backward(const RmsNormBackward& args, int threads);

}  // namespace furrow::tensor::kernels
