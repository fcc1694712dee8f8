// Batch normalisation of rows of channels (Ioffe and Szegedy, 2015): y = relu((x - mean) rstd gamma + beta
// + residual), rstd = 1 / sqrt(var + eps), per channel, over all rows.  A row is a pixel: images whose
// channels lie side by side.
//
// Sums run over blocks of 64 rows, those are joined in order in double, so no result depends on threads.
// Thread safe.  REQUIRES: rows >= 1, channels >= 1.
#pragma once

#include <cstdint>

namespace furrow::tensor::kernels {

// mean and biased variance of each channel (in double inside: a variance far below its mean is no problem).
struct BatchMoments {
  int64_t rows = 0, channels = 0;
  const float* x = nullptr;
  float* mean = nullptr;
  float* variance = nullptr;
};
void batch_moments(const BatchMoments& args, int threads);

struct BatchNormApply {
  int64_t rows = 0, channels = 0;
  const float* x = nullptr;
  const float* residual = nullptr;  // may be null
  const float* mean = nullptr;
  const float* rstd = nullptr;
  const float* gamma = nullptr;
  const float* beta = nullptr;
  bool relu = false;
  float* y = nullptr;  // may alias x or residual
};
void batch_norm_apply(const BatchNormApply& args, int threads);

// Of a norm by the moments of x itself.  g = dy where y > 0 (everywhere without ReLU) is the residual's
// gradient; dx may alias dy, and so may g.
struct BatchNormBackward {
  int64_t rows = 0, channels = 0;
  const float* x = nullptr;
  const float* y = nullptr;  // of forward, for the ReLU; null: without
  const float* mean = nullptr;
  const float* rstd = nullptr;
  const float* gamma = nullptr;
  const float* dy = nullptr;
  float* g = nullptr;  // may be null
  float* dx = nullptr;
  float* dgamma = nullptr;
  float* dbeta = nullptr;
};
void batch_norm_backward(const BatchNormBackward& args, int threads);

}  // namespace furrow::tensor::kernels
