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

// Floats of packed weights: [block of `across`][ky][kx][lanes of `along`][kChannelBlock], chains running
// along.
template <class Way>
int64_t packed_floats(const PixelConvShape& s, int64_t across, int64_t along) {
  return channel_blocks(across) * s.kernel * s.kernel * Way::lanes(along) * kChannelBlock;
}

// weight(a, b) is where the window's numbers of channel a across and channel b along begin.
template <class Way, class Weight>
void pack(const PixelConvShape& s, int64_t across, int64_t along, const Weight& weight, float* packed) {
  const int64_t taps = s.kernel * s.kernel, row = Way::lanes(along) * kChannelBlock;
  std::memset(packed, 0, static_cast<size_t>(packed_floats<Way>(s, across, along)) * sizeof(float));
  for (int64_t first = 0; first < across; first += kChannelBlock, packed += taps * row) {
    const int64_t count = std::min(kChannelBlock, across - first);
    for (int64_t b = 0; b < along; ++b) {
      for (int64_t t = 0; t < taps; ++t) {
        for (int64_t a = 0; a < count; ++a)
          Way::put(weight(first + a, b)[t], b, kChannelBlock, packed + t * row + a);
      }
    }
  }
}

template <class Way>
void pack_forward(const PixelConvShape& s, const typename Way::Number* weight, float* packed) {
  const int64_t taps = s.kernel * s.kernel;
  const auto at = [=](int64_t o, int64_t i) { return weight + (o * s.in_channels + i) * taps; };
  pack<Way>(s, s.out_channels, s.in_channels, at, packed);
}

template <class Way>
void pack_backward(const PixelConvShape& s, const typename Way::Number* weight, float* packed) {
  const int64_t taps = s.kernel * s.kernel;
  const auto at = [=](int64_t i, int64_t o) { return weight + (o * s.in_channels + i) * taps; };
  pack<Way>(s, s.in_channels, s.out_channels, at, packed);
}

// A share of the next image, null where there is none, is fetched with each row of outputs: it comes from
// far away.
template <class Number>
void fetch(const Number* next, int64_t numbers, int64_t row, int64_t rows) {
  constexpr int64_t kLine = 64 / sizeof(Number);
  if (next == nullptr) return;
  const int64_t end = numbers * (row + 1) / rows;
  for (int64_t i = numbers * row / rows / kLine * kLine; i < end; i += kLine) hwy::Prefetch(next + i);
}

// The rows of a window are contiguous: one tap each.
template <class Way>
void forward_image(const PixelConvShape& s, const float* bordered, const float* packed,
                   const typename Way::Number* next, typename Way::Number* y) {
  const auto b = input_border<Way>(s);
  const int64_t inputs = s.kernel * b.lanes, block = s.kernel * inputs * kChannelBlock;
  std::vector<Tap> taps(static_cast<size_t>(s.kernel));
  for (int64_t o = 0; o < channel_blocks(s.out_channels); ++o) {
    for (int64_t oy = 0; oy < s.out_height(); ++oy) {
      if (o == 0) fetch(next, s.in_numbers(), oy, s.out_height());
      for (int64_t ky = 0; ky < s.kernel; ++ky)
        taps[ky] = {bordered + (oy * s.stride + ky) * b.row(),
                    packed + o * block + ky * inputs * kChannelBlock};
      convolve_row<Way>({taps.data(), s.kernel, inputs, s.stride * b.lanes, s.out_channels,
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
template <class Way>
Bordered gradient_border(const PixelConvShape& s) {
  const int64_t before = (s.kernel - 1 - s.padding + s.stride - 1) / s.stride;
  const int64_t furthest = (std::max(s.height, s.width) - 1 + s.padding) / s.stride;
  const int64_t after = std::max<int64_t>(0, furthest - std::min(s.out_height(), s.out_width()) + 1);
  return {s.out_height(), s.out_width(), Way::lanes(s.out_channels), before, after};
}

// Inputs that are `stride` apart meet the same taps, so they make up a row.
template <class Way>
void backward_image(const PixelConvShape& s, const float* bordered, const float* packed,
                    const typename Way::Number* next, typename Way::Number* dx) {
  const auto b = gradient_border<Way>(s);
  const int64_t n = b.lanes, block = s.kernel * s.kernel * n * kChannelBlock;
  std::vector<Meeting> rows, columns;
  std::vector<Tap> taps;
  for (int64_t i = 0; i < channel_blocks(s.in_channels); ++i) {
    for (int64_t y = 0; y < s.height; ++y) {
      if (i == 0) fetch(next, s.out_numbers(), y, s.height);
      meetings(s, y, &rows);
      for (int64_t x = 0; x < std::min(s.stride, s.width); ++x) {
        meetings(s, x, &columns);
        taps.clear();
        for (const Meeting& row : rows) {
          for (const Meeting& column : columns)
            taps.push_back({bordered + (row.output + b.before) * b.row() + (column.output + b.before) * n,
                            packed + i * block + (row.k * s.kernel + column.k) * n * kChannelBlock});
        }
        convolve_row<Way>({taps.data(), static_cast<int64_t>(taps.size()), n, n, s.stride * s.in_channels,
                           dx + (y * s.width + x) * s.in_channels + i * kChannelBlock,
                           std::min(kChannelBlock, s.in_channels - i * kChannelBlock)},
                          (s.width - x + s.stride - 1) / s.stride);
      }
    }
  }
}

template <class Way, class T>
void run_forward(const PixelConvForward<T>& a, int threads) {
  const PixelConvShape& s = a.shape;
  const auto b = input_border<Way>(s);
  ScratchScope scratch;
  float* packed = scratch.floats(packed_floats<Way>(s, s.out_channels, s.in_channels));
  pack_forward<Way>(s, a.weight, packed);
  parallel_for(threads, s.batch, [&](int64_t begin, int64_t end) {
    ScratchScope own;
    float* bordered = own.floats(b.floats());
    for (int64_t n = begin; n < end; ++n) {
      load_bordered<Way>(b, a.x + n * s.in_numbers(), s.in_channels, bordered);
      const T* next = n + 1 < end ? a.x + (n + 1) * s.in_numbers() : nullptr;
      forward_image<Way>(s, bordered, packed, next, a.y + n * s.out_numbers());
    }
  });
}

template <class Way, class T>
void run_backward_input(const PixelConvBackwardInput<T>& a, int threads) {
  const PixelConvShape& s = a.shape;
  const auto b = gradient_border<Way>(s);
  ScratchScope scratch;
  float* packed = scratch.floats(packed_floats<Way>(s, s.in_channels, s.out_channels));
  pack_backward<Way>(s, a.weight, packed);
  parallel_for(threads, s.batch, [&](int64_t begin, int64_t end) {
    ScratchScope own;
    float* bordered = own.floats(b.floats());
    for (int64_t n = begin; n < end; ++n) {
      load_bordered<Way>(b, a.dy + n * s.out_numbers(), s.out_channels, bordered);
      const T* next = n + 1 < end ? a.dy + (n + 1) * s.out_numbers() : nullptr;
      backward_image<Way>(s, bordered, packed, next, a.dx + n * s.in_numbers());
    }
  });
}

}  // namespace

void run_forward_f32(const PixelConvForward<float>& a, int threads) {
  run_forward<OneByOne<float>>(a, threads);
}
void run_forward_f16(const PixelConvForward<f16>& a, int threads) { run_forward<OneByOne<f16>>(a, threads); }
void run_forward_bf16(const PixelConvForward<bf16>& a, int threads) {
  by_way_of_bf16([&]<class Way>(Way) { run_forward<Way>(a, threads); });
}

void run_backward_input_f32(const PixelConvBackwardInput<float>& a, int threads) {
  run_backward_input<OneByOne<float>>(a, threads);
}
void run_backward_input_f16(const PixelConvBackwardInput<f16>& a, int threads) {
  run_backward_input<OneByOne<f16>>(a, threads);
}
void run_backward_input_bf16(const PixelConvBackwardInput<bf16>& a, int threads) {
  by_way_of_bf16([&]<class Way>(Way) { run_backward_input<Way>(a, threads); });
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

#define FURROW_DISPATCH(name, Args, suffix, T)                  \
  HWY_EXPORT(run_##name##_##suffix);                            \
  void pixel_conv_##name(const Args<T>& args, int threads) {    \
    check_pixel_conv_shape(args.shape);                         \
    HWY_DYNAMIC_DISPATCH(run_##name##_##suffix)(args, threads); \
  }
FURROW_DISPATCH(forward, PixelConvForward, f32, float)
FURROW_DISPATCH(forward, PixelConvForward, bf16, bf16)
FURROW_DISPATCH(forward, PixelConvForward, f16, f16)
FURROW_DISPATCH(backward_input, PixelConvBackwardInput, f32, float)
FURROW_DISPATCH(backward_input, PixelConvBackwardInput, bf16, bf16)
FURROW_DISPATCH(backward_input, PixelConvBackwardInput, f16, f16)
#undef FURROW_DISPATCH

}  // namespace furrow::tensor::kernels
#endif
