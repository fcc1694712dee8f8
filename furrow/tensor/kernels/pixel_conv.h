// 2-D convolution with a stride and without a bias over images whose channels lie side by side: x [batch,
// height, width, in_channels], y [batch, out_height, out_width, out_channels]; weights as PyTorch's,
// [out_channels, in_channels, k, k].  Direct: a tile of pixels times 16 output channels stays in registers
// while one chain of products runs over the window, row by row, channel by channel, pixel by pixel.
//
// Numbers are float32, or 16-bit ones, whose sums and weight gradients are float32: bfloat16 on a processor
// with AVX-512 BF16 two products at a time (VDPBF16PS; subnormals count as zero), over pairs of channels, and
// for a weight gradient of pixels; elsewhere, and float16, converted image by image.
//
// An output is one such chain, whatever tile it falls into; weight gradients are summed over the pixels of a
// few images in a row, then over these groups in a block, then over the blocks, which follow from the shape
// alone: no result depends on threads.  Parallel over images.  Thread safe.
#pragma once

#include <cstdint>

#include "furrow/tensor/kernels/half.h"

namespace furrow::tensor::kernels {

struct PixelConvShape {
  int64_t batch = 0;
  int64_t in_channels = 0, height = 0, width = 0;
  int64_t out_channels = 0;
  int64_t kernel = 0, stride = 1, padding = 0;

  int64_t out_height() const { return (height + 2 * padding - kernel) / stride + 1; }
  int64_t out_width() const { return (width + 2 * padding - kernel) / stride + 1; }
  int64_t in_numbers() const { return height * width * in_channels; }  // of an image
  int64_t out_numbers() const { return out_height() * out_width() * out_channels; }
};

// REQUIRES of all three: sizes >= 1, an output that is not empty, 0 <= padding < kernel.  Throws
// Error{invalid_argument} otherwise.

template <class T>
struct PixelConvForward {
  PixelConvShape shape;
  const T* x = nullptr;
  const T* weight = nullptr;
  T* y = nullptr;
};
void pixel_conv_forward(const PixelConvForward<float>& args, int threads);
void pixel_conv_forward(const PixelConvForward<bf16>& args, int threads);
void pixel_conv_forward(const PixelConvForward<f16>& args, int threads);

template <class T>
struct PixelConvBackwardInput {
  PixelConvShape shape;
  const T* dy = nullptr;
  const T* weight = nullptr;
  T* dx = nullptr;
};
void pixel_conv_backward_input(const PixelConvBackwardInput<float>& args, int threads);
void pixel_conv_backward_input(const PixelConvBackwardInput<bf16>& args, int threads);
void pixel_conv_backward_input(const PixelConvBackwardInput<f16>& args, int threads);

template <class T>
struct PixelConvBackwardWeight {
  PixelConvShape shape;
  const T* x = nullptr;
  const T* dy = nullptr;
  float* dweight = nullptr;  // written, not accumulated
};
void pixel_conv_backward_weight(const PixelConvBackwardWeight<float>& args, int threads);
void pixel_conv_backward_weight(const PixelConvBackwardWeight<bf16>& args, int threads);
void pixel_conv_backward_weight(const PixelConvBackwardWeight<f16>& args, int threads);

}  // namespace furrow::tensor::kernels
