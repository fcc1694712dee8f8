// Batch normalisation of rows of channels (Ioffe and Szegedy, 2015): y = relu((x - mean) rstd gamma + beta
// + residual), rstd = 1 / sqrt(var + eps), per channel, over all rows.  A row is a pixel: images whose
// channels lie side by side.
//
// Numbers are float32, or 16-bit ones that are rounded where they are written; what is of a channel is
// float32. Sums run over blocks of 64 rows, those are joined in order in double, so no result depends on
// threads. Thread safe.  REQUIRES: rows >= 1, channels >= 1.
#pragma once

#include <cstdint>

#include "furrow/tensor/kernels/half.h"

namespace furrow::tensor::kernels {

// mean and biased variance of each channel (in double inside: a variance far below its mean is no problem).
template <class T>
struct BatchMoments {
  int64_t rows = 0, channels = 0;
  const T* x = nullptr;
  float* mean = nullptr;
  float* variance = nullptr;
};
void batch_moments(const BatchMoments<float>& args, int threads);
void batch_moments(const BatchMoments<bf16>& args, int threads);
void batch_moments(const BatchMoments<f16>& args, int threads);

template <class T>
struct BatchNormApply {
  int64_t rows = 0, channels = 0;
  const T* x = nullptr;
  const T* residual = nullptr;  // may be null
  const float* mean = nullptr;
  const float* rstd = nullptr;
  const float* gamma = nullptr;
  const float* beta = nullptr;
  bool relu = false;
  T* y = nullptr;  // may alias x or residual
};
void batch_norm_apply(const BatchNormApply<float>& args, int threads);
void batch_norm_apply(const BatchNormApply<bf16>& args, int threads);
void batch_norm_apply(const BatchNormApply<f16>& args, int threads);

// Of a norm by the moments of x itself.  g = dy where y > 0 (everywhere without ReLU) is the residual's
// gradient; dx may alias dy, and so may g.  Of a ReLU behind a norm without a residual beta says as much as
// y: the norm is formed again, which costs less than to read it.
template <class T>
struct BatchNormBackward {
  int64_t rows = 0, channels = 0;
  const T* x = nullptr;
  const T* y = nullptr;  // of forward, for the ReLU; null: without, or by beta
  const float* mean = nullptr;
  const float* rstd = nullptr;
  const float* gamma = nullptr;
  const float* beta = nullptr;  // with a ReLU and no y; null: no ReLU but y's
  const T* dy = nullptr;
  T* g = nullptr;  // may be null
  T* dx = nullptr;
  float* dgamma = nullptr;
  float* dbeta = nullptr;
};
void batch_norm_backward(const BatchNormBackward<float>& args, int threads);
void batch_norm_backward(const BatchNormBackward<bf16>& args, int threads);
void batch_norm_backward(const BatchNormBackward<f16>& args, int threads);

}  // namespace furrow::tensor::kernels
