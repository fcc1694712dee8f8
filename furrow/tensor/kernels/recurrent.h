// The recurrent part of a layer over time, forward and backward, fused: a product with the state and the cell
// behind it, step after step, while the weight stays packed and the state in the cache.  What does not depend
// on the state (input projections, weight gradients, gradients of the input) is one product over all steps
// and not done here.
//
//   kTanh  h_t = tanh(z_t)                                                     (Elman, 1990)
//   kLstm  i, f, o = sigmoid, g = tanh of the four parts of z_t, c_t = f c_{t-1} + i g, h_t = o tanh(c_t)
//          (Hochreiter and Schmidhuber, 1997; forget gate: Gers et al., 2000; parts in PyTorch's order i f g
//          o)
//   z_t = projection_t + h_{t-1} W^T, h_{-1} = c_{-1} = 0
//
// Each element of z_t and of the state's gradient is one chain that starts from the projection (the output's
// gradient) and goes through the state in order: bits depend neither on the thread count nor on the other
// samples.  Parallel over samples.  Thread safe.  REQUIRES: sizes >= 1.
#pragma once

#include <cstdint>

namespace furrow::tensor::kernels {

enum class Cell : uint8_t { kTanh, kLstm };

struct RecurrentShape {
  Cell cell = Cell::kTanh;
  int64_t batch = 0, time = 0, hidden = 0;
  int64_t weight_stride = 0;  // between rows of W [parts * hidden, hidden]
  int64_t parts() const { return cell == Cell::kLstm ? 4 : 1; }
};

// A sequence is [batch, time] rows `stride` apart; a null one is left out.
struct RecurrentForward {
  RecurrentShape shape;
  const float* weight = nullptr;
  float* gates = nullptr;  // [batch, time, parts * hidden]: projections, overwritten by what backward reads
  float* cell = nullptr;   // [batch, time, hidden], kLstm: c_t, for backward
  float* out = nullptr;    // row t: h_t
  float* previous = nullptr;  // row t: h_{t-1}
  int64_t out_stride = 0, previous_stride = 0;
};
void recurrent_forward(const RecurrentForward& args, int threads);

// From the gradients of `out` and `previous`, added where both are there, to that of the projections.
struct RecurrentBackward {
  RecurrentShape shape;
  const float* weight = nullptr;
  float* gates =
      nullptr;  // what forward left; overwritten by the gradient of z, [batch, time, parts * hidden]
  const float* cell = nullptr;  // kLstm
  const float* dout = nullptr;
  const float* dprevious = nullptr;
  int64_t dout_stride = 0, dprevious_stride = 0;
};
void recurrent_backward(const RecurrentBackward& args, int threads);

}  // namespace furrow::tensor::kernels
