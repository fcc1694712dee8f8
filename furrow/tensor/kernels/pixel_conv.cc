#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "furrow/tensor/kernels/pixel_conv.cc"
#include "furrow/tensor/kernels/targets.h"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on
#include <vector>

#include "furrow/tensor/kernels/parallel.h"
#include "furrow/tensor/kernels/pixel_conv-inl.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {
namespace {

// [block of outputs][ky][kx][in][kChannelBlock].
void pack_forward(const PixelConvShape& s, const float* weight, float* packed) {
  const int64_t taps = s.kernel * s.kernel, c = s.in_channels;
  std::memset(packed, 0,
              static_cast<size_t>(channel_blocks(s.out_channels) * taps * c * kChannelBlock) * sizeof(float));
  for (int64_t o = 0; o < s.out_channels; ++o) {
    float* to = packed + o / kChannelBlock * taps * c * kChannelBlock + o % kChannelBlock;
    for (int64_t i = 0; i < c; ++i) {
      for (int64_t t = 0; t < taps; ++t) to[(t * c + i) * kChannelBlock] = weight[(o * c + i) * taps + t];
    }
  }
}

// [block of inputs][ky][kx][out][kChannelBlock].
void pack_backward(const PixelConvShape& s, const float* weight, float* packed) {
  const int64_t taps = s.kernel * s.kernel, c = s.in_channels, n = s.out_channels;
  std::memset(packed, 0, static_cast<size_t>(channel_blocks(c) * taps * n * kChannelBlock) * sizeof(float));
  for (int64_t o = 0; o < n; ++o) {
    for (int64_t i = 0; i < c; ++i) {
      float* to = packed + i / kChannelBlock * taps * n * kChannelBlock + i % kChannelBlock;
      for (int64_t t = 0; t < taps; ++t) to[(t * n + o) * kChannelBlock] = weight[(o * c + i) * taps + t];
    }
  }
}

// The rows of a window are contiguous: one tap each.
void forward_image(const PixelConvShape& s, const float* bordered, const float* packed, float* y) {
  const Bordered b{s.height, s.width, s.in_channels, s.padding, s.padding};
  const int64_t inputs = s.kernel * s.in_channels, block = s.kernel * inputs * kChannelBlock;
  std::vector<Tap> taps(static_cast<size_t>(s.kernel));
  for (int64_t o = 0; o < channel_blocks(s.out_channels); ++o) {
    for (int64_t oy = 0; oy < s.out_height(); ++oy) {
      for (int64_t ky = 0; ky < s.kernel; ++ky)
        taps[ky] = {bordered + (oy * s.stride + ky) * b.row(),
                    packed + o * block + ky * inputs * kChannelBlock};
      convolve_row({taps.data(), s.kernel, inputs, s.stride * s.in_channels, s.out_channels,
                    y + oy * s.out_width() * s.out_channels + o * kChannelBlock,
                    std::min(kChannelBlock, s.out_channels - o * kChannelBlock)},
                   s.out_width());
    }
  }
}

// Which outputs an input has a part in, along one dim: taps k with (at + padding - k) a multiple of the
// stride, each meeting output (at + padding - k) / stride.
struct Meeting {
  int64_t k, output;
};
void meetings(const PixelConvShape& s, int64_t at, std::vector<Meeting>* found) {
  found->clear();
  for (int64_t k = (at + s.padding) % s.stride; k < s.kernel; k += s.stride)
    found->push_back({k, (at + s.padding - k) / s.stride});  // exact, also below zero
}

// Zeros around the gradient, so that outputs that do not exist need no case of their own.
Bordered gradient_border(const PixelConvShape& s) {
  const int64_t before = (s.kernel - 1 - s.padding + s.stride - 1) / s.stride;
  const int64_t furthest = (std::max(s.height, s.width) - 1 + s.padding) / s.stride;
  const int64_t after = std::max<int64_t>(0, furthest - std::min(s.out_height(), s.out_width()) + 1);
  return {s.out_height(), s.out_width(), s.out_channels, before, after};
}

// Inputs that are `stride` apart meet the same taps, so they make up a row.
void backward_image(const PixelConvShape& s, const float* bordered, const float* packed, float* dx) {
  const Bordered b = gradient_border(s);
  const int64_t n = s.out_channels, block = s.kernel * s.kernel * n * kChannelBlock;
  std::vector<Meeting> rows, columns;
  std::vector<Tap> taps;
  for (int64_t i = 0; i < channel_blocks(s.in_channels); ++i) {
    for (int64_t y = 0; y < s.height; ++y) {
      meetings(s, y, &rows);
      for (int64_t x = 0; x < std::min(s.stride, s.width); ++x) {
        meetings(s, x, &columns);
        taps.clear();
        for (const Meeting& row : rows) {
          for (const Meeting& column : columns)
            taps.push_back({bordered + (row.output + b.before) * b.row() + (column.output + b.before) * n,
                            packed + i * block + (row.k * s.kernel + column.k) * n * kChannelBlock});
        }
        convolve_row({taps.data(), static_cast<int64_t>(taps.size()), n, n, s.stride * s.in_channels,
                      dx + (y * s.width + x) * s.in_channels + i * kChannelBlock,
                      std::min(kChannelBlock, s.in_channels - i * kChannelBlock)},
                     (s.width - x + s.stride - 1) / s.stride);
      }
    }
  }
}

}  // namespace

void run_pixel_conv_forward(const PixelConvForward& a, int threads) {
  const PixelConvShape& s = a.shape;
  const Bordered b{s.height, s.width, s.in_channels, s.padding, s.padding};
  ScratchScope scratch;
  float* packed =
      scratch.floats(channel_blocks(s.out_channels) * kChannelBlock * s.in_channels * s.kernel * s.kernel);
  pack_forward(s, a.weight, packed);
  parallel_for(threads, s.batch, [&](int64_t begin, int64_t end) {
    ScratchScope own;
    float* bordered = own.floats(b.floats());
    for (int64_t n = begin; n < end; ++n) {
      load_bordered(b, a.x + n * s.in_floats(), bordered);
      forward_image(s, bordered, packed, a.y + n * s.out_floats());
    }
  });
}

void run_pixel_conv_backward_input(const PixelConvBackwardInput& a, int threads) {
  const PixelConvShape& s = a.shape;
  const Bordered b = gradient_border(s);
  ScratchScope scratch;
  float* packed =
      scratch.floats(channel_blocks(s.in_channels) * kChannelBlock * s.out_channels * s.kernel * s.kernel);
  pack_backward(s, a.weight, packed);
  parallel_for(threads, s.batch, [&](int64_t begin, int64_t end) {
    ScratchScope own;
    float* bordered = own.floats(b.floats());
    for (int64_t n = begin; n < end; ++n) {
      load_bordered(b, a.dy + n * s.out_floats(), bordered);
      backward_image(s, bordered, packed, a.dx + n * s.in_floats());
    }
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <fmt/format.h>

#include "furrow/base/error.h"
#include "furrow/tensor/kernels/pixel_conv_check.h"

namespace furrow::tensor::kernels {

void check_pixel_conv_shape(const PixelConvShape& s) {
  const bool sizes = s.batch >= 1 && s.in_channels >= 1 && s.height >= 1 && s.width >= 1 &&
                     s.out_channels >= 1 && s.kernel >= 1 && s.stride >= 1 && s.padding >= 0 &&
                     s.padding < s.kernel;
  if (sizes && s.height + 2 * s.padding >= s.kernel && s.width + 2 * s.padding >= s.kernel) return;
  throw Error(
      ErrorCode::kInvalidArgument,
      fmt::format("convolution of {} images [{}, {}, {}] with {} kernels of {}x{}, stride {}, padding {}: "
                  "the sizes must be positive, padding smaller than the kernel, and the output not empty",
                  s.batch, s.height, s.width, s.in_channels, s.out_channels, s.kernel, s.kernel, s.stride,
                  s.padding));
}

HWY_EXPORT(run_pixel_conv_forward);
HWY_EXPORT(run_pixel_conv_backward_input);
void pixel_conv_forward(const PixelConvForward& args, int threads) {
  check_pixel_conv_shape(args.shape);
  HWY_DYNAMIC_DISPATCH(run_pixel_conv_forward)(args, threads);
}
void pixel_conv_backward_input(const PixelConvBackwardInput& args, int threads) {
  check_pixel_conv_shape(args.shape);
  HWY_DYNAMIC_DISPATCH(run_pixel_conv_backward_input)(args, threads);
}

}  // namespace furrow::tensor::kernels
#endif
