// 2-D convolution with a stride and without a bias over images whose channels lie side by side: x [batch,
// height, width, in_channels], y [batch, out_height, out_width, out_channels]; weights as PyTorch's,
// [out_channels, in_channels, k, k].  Direct: a tile of pixels times 16 output channels stays in registers
// while one chain of products runs over the window, row by row, pixel by pixel, channel by channel.
//
// An output is one such chain, whatever tile it falls into; weight gradients are summed over the pixels of an
// image, then over the images of a block, then over the blocks, which follow from the shape alone: no result
// depends on threads.  Parallel over images.  Thread safe.
#pragma once

#include <cstdint>

namespace furrow::tensor::kernels {

struct PixelConvShape {
  int64_t batch = 0;
  int64_t in_channels = 0, height = 0, width = 0;
  int64_t out_channels = 0;
  int64_t kernel = 0, stride = 1, padding = 0;

  int64_t out_height() const { return (height + 2 * padding - kernel) / stride + 1; }
  int64_t out_width() const { return (width + 2 * padding - kernel) / stride + 1; }
  int64_t in_floats() const { return height * width * in_channels; }  // of an image
  int64_t out_floats() const { return out_height() * out_width() * out_channels; }
};

// REQUIRES of all three: sizes >= 1, an output that is not empty, 0 <= padding < kernel.  Throws
// Error{invalid_argument} otherwise.

struct PixelConvForward {
  PixelConvShape shape;
  const float* x = nullptr;
  const float* weight = nullptr;
  float* y = nullptr;
};
void pixel_conv_forward(const PixelConvForward& args, int threads);

struct PixelConvBackwardInput {
  PixelConvShape shape;
  const float* dy = nullptr;
  const float* weight = nullptr;
  float* dx = nullptr;
};
void pixel_conv_backward_input(const PixelConvBackwardInput& args, int threads);

struct PixelConvBackwardWeight {
  PixelConvShape shape;
  const float* x = nullptr;
  const float* dy = nullptr;
  float* dweight = nullptr;  // written, not accumulated
};
void pixel_conv_backward_weight(const PixelConvBackwardWeight& args, int threads);

}  // namespace furrow::tensor::kernels
