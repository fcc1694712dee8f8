// Direct 2-D convolution, stride 1, square kernel, zero padding, with bias, optional ReLU and optional 2x2
// max pool (stride 2, floor) fused behind it.  NCHW fp32 in and out, weights [out_channels, in_channels, k,
// k].
//
// Sixteen samples share a vector: inside, a tile of 16 samples is laid out [channel][y][x][16].  So the
// outputs of a sample do not depend on the other samples of the batch; weight gradients are summed within a
// tile by a fixed tree and over tiles in order, so no result depends on the thread count.  A batch that is no
// multiple of 16 is filled with zeros.  Parallel over tiles.  Thread safe.
//
// A maximum that is reached more than once sends its gradient to the first in row-major order, as PyTorch
// does.
#pragma once

#include <cstdint>

namespace furrow::tensor::kernels {

struct Conv2dShape {
  int64_t batch = 0;
  int64_t in_channels = 0, height = 0, width = 0;  // of the input
  int64_t out_channels = 0;
  int64_t kernel = 0;
  int64_t padding = 0;
  bool relu = false;
  bool pool = false;  // 2x2 max pool after the ReLU

  int64_t conv_height() const { return height + 2 * padding - kernel + 1; }
  int64_t conv_width() const { return width + 2 * padding - kernel + 1; }
  int64_t out_height() const { return pool ? conv_height() / 2 : conv_height(); }
  int64_t out_width() const { return pool ? conv_width() / 2 : conv_width(); }
  int64_t tiles() const { return (batch + 15) / 16; }
  // Bytes of the codes that forward leaves for backward: for each output element where its gradient goes.
  int64_t code_bytes() const {
    return relu || pool ? tiles() * 16 * out_channels * out_height() * out_width() : 0;
  }
  int64_t weight_size() const { return out_channels * in_channels * kernel * kernel; }
};

// REQUIRES of all three: sizes >= 1, conv_height() >= 1, conv_width() >= 1, 0 <= padding < kernel, and with
// pool out_height() >= 1, out_width() >= 1.  Throws Error{invalid_argument} otherwise.

// y [batch, out_channels, out_height, out_width] from x [batch, in_channels, height, width].
// `codes` [code_bytes()] may be null for inference; `bias` may be null.
struct Conv2dForward {
  Conv2dShape shape;
  const float* x = nullptr;
  const float* weight = nullptr;
  const float* bias = nullptr;
  float* y = nullptr;
  uint8_t* codes = nullptr;
};
void conv2d_forward(const Conv2dForward& args, int threads);

// dx [as x] from dy [as y].
struct Conv2dBackwardInput {
  Conv2dShape shape;
  const float* dy = nullptr;
  const uint8_t* codes = nullptr;  // of forward; null when neither relu nor pool
  const float* weight = nullptr;
  float* dx = nullptr;
};
void conv2d_backward_input(const Conv2dBackwardInput& args, int threads);

// dweight [as weight] and dbias [out_channels], written, not accumulated.  Either may be null.
struct Conv2dBackwardWeight {
  Conv2dShape shape;
  const float* x = nullptr;
  const float* dy = nullptr;
  const uint8_t* codes = nullptr;
  float* dweight = nullptr;
  float* dbias = nullptr;
};
void conv2d_backward_weight(const Conv2dBackwardWeight& args, int threads);

}  // namespace furrow::tensor::kernels
