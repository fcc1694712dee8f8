// Element-wise fp32 kernels.  Bits of an element depend on that element alone: not on offset, length,
// alignment or threads.  Outputs may alias inputs exactly (same pointer), never overlap them otherwise.
// Thread safe.
#pragma once

#include <cstdint>

#include "furrow/tensor/kernels/gemm.h"
#include "furrow/tensor/kernels/half.h"

namespace furrow::tensor::kernels {

void add(int64_t n, const float* a, const float* b, float* out, int threads);  // out = a + b
void scale(int64_t n, float factor, const float* x, float* out, int threads);  // out = factor * x

// y = activation(x), x [n].  `slope` (may be null) receives activation'(x).
// GELU is x * Phi(x); its error is at most 7 ulp of the result over the whole range (tested), also far in the
// negative tail, where 0.5 * x * (1 + erf(x / sqrt 2)) cancels; without FMA 80 ulp there.  GELU tanh: 3e-7 of
// max(1, |y|).  Slopes: 6e-7.
void activation_forward(Activation activation, int64_t n, const float* x, float* y, float* slope,
                        int threads);

// y = activation(x + bias), x [rows, columns], of float32 or a 16-bit type, float32 inside.  `bias` [columns]
// may be null, and `slope` (activation'(x + bias), where has_slope()) too.  At most 4 ulp of the result for
// tanh, sigmoid and SiLU, 2 for softplus (tested).
template <class T>
struct BiasActivation {
  Activation activation = Activation::kNone;
  int64_t rows = 0, columns = 0;
  const T* x = nullptr;
  const T* bias = nullptr;
  T* y = nullptr;
  T* slope = nullptr;
};
void bias_activation(const BiasActivation<float>& args, int threads);
void bias_activation(const BiasActivation<bf16>& args, int threads);
void bias_activation(const BiasActivation<f16>& args, int threads);

// exp(x) for x <= 0, at most 1.5 ulp; results below 2^-126 become 0; NaN stays NaN.  What the softmaxes use.
void exp_nonpositive(int64_t n, const float* x, float* y, int threads);

// 1 / (1 + exp(-x)) and tanh(x), at most 3 ulp (tested); NaN stays NaN.  What the recurrent cells use.
void sigmoid(int64_t n, const float* x, float* y, int threads);
void tanh(int64_t n, const float* x, float* y, int threads);

// y = silu(gate) * up, silu(z) = z sigmoid(z), from rows that hold gate [columns] and up [columns] side by
// side: the gated unit of Llama's feed-forward (Shazeer, "GLU variants improve transformer", 2020).
void swiglu_forward(int64_t rows, int64_t columns, const float* gate_up, float* y, int threads);
// The gradient of gate_up [rows, 2 * columns] from that of y [rows, columns]; it may be written over gate_up.
void swiglu_backward(int64_t rows, int64_t columns, const float* gate_up, const float* dy, float* dgate_up,
                     int threads);

}  // namespace furrow::tensor::kernels
