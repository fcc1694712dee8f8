// The recurrent part of a layer over time, forward and backward, fused: a product with the state and the cell
// behind it, step after step, while the weight stays packed and the state in the cache.  What does not depend
// on the state (input projections, weight gradients, gradients of the input) is one product over all steps
// and not done here.
//
//   kTanh  h_t = tanh(z_t)                                                     (Elman, 1990)
//   kLstm  i, f, o = sigmoid, g = tanh of the four parts of z_t, c_t = f c_{t-1} + i g, h_t = o tanh(c_t)
//          (Hochreiter and Schmidhuber, 1997; forget gate: Gers et al., 2000; parts in PyTorch's order i f g
//          o)
//   z_t = h_{t-1} W^T + projection_t, h_{-1} = c_{-1} = 0
//
// Numbers are float32, bfloat16 or float16 (T).  Of 16 bits, what lies in memory is rounded as it is stored,
// and h_t and the gradient of z_t are rounded before the next step multiplies them; c_t and its gradient go
// from step to step in float32.  An element of a step's product is one float32 chain over k (backward over
// the parts and in each over the hidden units): of VDPBF16PS over pairs for bfloat16 where the processor has
// it (gemm_half.h), else of fused multiply-adds.  Bits depend neither on the thread count nor on the other
// samples. Parallel over samples.  Thread safe.  REQUIRES: sizes >= 1.
#pragma once

#include <cstdint>

#include "furrow/tensor/kernels/half.h"

namespace furrow::tensor::kernels {

enum class Cell : uint8_t { kTanh, kLstm };

struct RecurrentShape {
  Cell cell = Cell::kTanh;
  int64_t batch = 0, time = 0, hidden = 0;
  int64_t weight_stride = 0;  // between rows of W [parts * hidden, hidden]
  int64_t parts() const { return cell == Cell::kLstm ? 4 : 1; }
};

// A sequence is [batch, time] rows `stride` apart; a null one is left out.
template <class T>
struct RecurrentForward {
  RecurrentShape shape;
  const T* weight = nullptr;
  T* gates = nullptr;     // [batch, time, parts * hidden]: projections, overwritten by what backward reads
  T* cell = nullptr;      // [batch, time, hidden], kLstm: c_t, for backward
  T* out = nullptr;       // row t: h_t
  T* previous = nullptr;  // row t: h_{t-1}
  int64_t out_stride = 0, previous_stride = 0;
};
void recurrent_forward(const RecurrentForward<float>& args, int threads);
void recurrent_forward(const RecurrentForward<bf16>& args, int threads);
void recurrent_forward(const RecurrentForward<f16>& args, int threads);

// From the gradients of `out` and `previous`, added where both are there, to that of the projections.
template <class T>
struct RecurrentBackward {
  RecurrentShape shape;
  const T* weight = nullptr;
  T* gates = nullptr;  // what forward left; overwritten by the gradient of z, [batch, time, parts * hidden]
  const T* cell = nullptr;  // kLstm
  const T* dout = nullptr;
  const T* dprevious = nullptr;
  int64_t dout_stride = 0, dprevious_stride = 0;
};
void recurrent_backward(const RecurrentBackward<float>& args, int threads);
void recurrent_backward(const RecurrentBackward<bf16>& args, int threads);
void recurrent_backward(const RecurrentBackward<f16>& args, int threads);

}  // namespace furrow::tensor::kernels
