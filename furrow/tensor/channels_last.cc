// Operations over images whose channels lie side by side: convolution without a bias, pools, shortcuts.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/half_torch.h"
#include "furrow/tensor/image_operations_torch.h"
#include "furrow/tensor/kernels/pixel_conv.h"
#include "furrow/tensor/kernels/scratch.h"

namespace furrow::tensor {

at::Tensor dense_image(const at::Tensor& x) {
  FURROW_CHECK(x.dim() == 4 && is_number(x), "an image is numbers [batch, channels, height, width]");
  return x.detach().contiguous(kImageFormat);
}

namespace {

at::Tensor image(int64_t batch, int64_t channels, int64_t height, int64_t width, const at::Tensor& like) {
  return at::empty({batch, channels, height, width}, like.options(), kImageFormat);
}

// One call, kept from forward to backward.  All tensors are dense and without history.
struct ConvolutionCall {
  kernels::PixelConvShape shape;
  at::Tensor x, weight;
  int weight_index = -1;
  bool input_gradient = false;
  int threads = 1;
  GradientSink* sink = nullptr;
};

std::vector<at::Tensor> convolution_backward(const ConvolutionCall& call, const at::Tensor& dy) {
  if (call.sink != nullptr) {
    call.sink->defer(call.weight_index, [call, dy](float* out) {
      by_type(dy.scalar_type(), [&]<class T>(T) {
        kernels::pixel_conv_backward_weight({call.shape, numbers<T>(call.x), numbers<T>(dy), out},
                                            call.threads);
      });
    });
  }
  if (!call.input_gradient) return {};
  at::Tensor dx = at::empty_like(call.x);
  by_type(dy.scalar_type(), [&]<class T>(T) {
    kernels::pixel_conv_backward_input(
        {call.shape, numbers<T>(dy), numbers<T>(call.weight), mutable_numbers<T>(dx)}, call.threads);
  });
  return {dx};
}

// 3x3 windows, stride 2, padding 1.
struct PoolShape {
  int64_t batch, channels, height, width;
  int64_t out_height() const { return (height - 1) / 2 + 1; }
  int64_t out_width() const { return (width - 1) / 2 + 1; }
  int64_t image() const { return height * width * channels; }
  // Where pixel `code` of an output's window begins in its image, in row-major order of the window.
  int64_t source(int64_t r, int64_t q, int code) const {
    return ((2 * r - 1 + code / 3) * width + 2 * q - 1 + code % 3) * channels;
  }
  bool inside(int64_t r, int64_t q, int code) const {
    const int64_t y = 2 * r - 1 + code / 3, x = 2 * q - 1 + code % 3;
    return y >= 0 && y < height && x >= 0 && x < width;
  }
};

template <class T>
void find_maxima(const PoolShape& s, const T* from, T* to, uint8_t* code) {
  const int64_t c = s.channels;
  kernels::ScratchScope scratch;
  float* most = scratch.floats(c);
  for (int64_t n = 0; n < s.batch; ++n, from += s.image()) {
    for (int64_t r = 0; r < s.out_height(); ++r) {
      for (int64_t q = 0; q < s.out_width(); ++q, to += c, code += c) {
        std::fill_n(most, c, -std::numeric_limits<float>::infinity());
        std::fill_n(code, c, static_cast<uint8_t>(4));
        for (int k = 0; k < 9; ++k) {
          if (!s.inside(r, q, k)) continue;
          const T* pixel = from + s.source(r, q, k);
          for (int64_t i = 0; i < c; ++i) {
            const float value = kernels::to_float(pixel[i]);
            const bool wins = value > most[i] || std::isnan(value);
            most[i] = wins ? value : most[i];
            code[i] = wins ? static_cast<uint8_t>(k) : code[i];
          }
        }
        for (int64_t i = 0; i < c; ++i) kernels::set_to(to[i], most[i]);
      }
    }
  }
}

// A pixel may be the maximum of four windows: their sum is float32.
template <class T>
void send_to_maxima(const PoolShape& s, const T* gradient, const uint8_t* code, T* out) {
  kernels::ScratchScope scratch;
  float* sums = scratch.floats(s.image());
  for (int64_t n = 0; n < s.batch; ++n, out += s.image()) {
    std::fill_n(sums, s.image(), 0.0F);
    for (int64_t r = 0; r < s.out_height(); ++r) {
      for (int64_t q = 0; q < s.out_width(); ++q, gradient += s.channels, code += s.channels) {
        for (int64_t i = 0; i < s.channels; ++i)
          sums[s.source(r, q, code[i]) + i] += kernels::to_float(gradient[i]);
      }
    }
    for (int64_t i = 0; i < s.image(); ++i) kernels::set_to(out[i], sums[i]);
  }
}

template <class T>
void average_pixels(int64_t pixels, int64_t channels, const T* from, T* to) {
  kernels::ScratchScope scratch;
  float* sums = scratch.floats(channels);
  std::fill_n(sums, channels, 0.0F);
  for (int64_t p = 0; p < pixels; ++p, from += channels) {
    for (int64_t i = 0; i < channels; ++i) sums[i] += kernels::to_float(from[i]);
  }
  for (int64_t i = 0; i < channels; ++i) kernels::set_to(to[i], sums[i] / static_cast<float>(pixels));
}

}  // namespace

namespace by_kernels {

at::Tensor strided_conv2d(const at::Tensor& x, const Param& weight, const StridedConvolution& convolution,
                          OpContext& context) {
  FURROW_CHECK(weight.leaf.dim() == 4 && x.dim() == 4 && weight.leaf.size(1) == x.size(1) &&
                   weight.leaf.size(2) == weight.leaf.size(3) && weight.leaf.scalar_type() == x.scalar_type(),
               "a convolution's weight is [out, channels of its input, k, k] of the input's type");
  ConvolutionCall call;
  call.x = dense_image(x);
  call.weight = weight.leaf.detach();
  call.shape = {x.size(0),           x.size(1),           x.size(2),          x.size(3),
                weight.leaf.size(0), weight.leaf.size(2), convolution.stride, convolution.padding};
  call.weight_index = weight.index;
  call.input_gradient = x.requires_grad();
  call.threads = context.threads;
  call.sink = context.sink;
  at::Tensor y =
      image(x.size(0), call.shape.out_channels, call.shape.out_height(), call.shape.out_width(), call.x);
  by_type(x.scalar_type(), [&]<class T>(T) {
    kernels::pixel_conv_forward(
        {call.shape, numbers<T>(call.x), numbers<T>(call.weight), mutable_numbers<T>(y)}, context.threads);
  });
  return with_backward(
      y, {x, weight.leaf}, [call](const at::Tensor& dy) { return convolution_backward(call, dy); },
      kImageFormat);
}

at::Tensor subsample_and_pad(const at::Tensor& x, int64_t stride, int64_t channels, OpContext& /*context*/) {
  const at::Tensor in = dense_image(x);
  const int64_t batch = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3);
  FURROW_CHECK(channels >= c && stride >= 1, "a shortcut pads channels");
  const int64_t oh = (h - 1) / stride + 1, ow = (w - 1) / stride + 1;
  at::Tensor y = image(batch, channels, oh, ow, in);
  // move(pixel of x, pixel of y) for every pixel that is taken.
  const auto pixels = [=](const auto& move) {
    for (int64_t n = 0; n < batch; ++n) {
      for (int64_t r = 0; r < oh; ++r) {
        for (int64_t q = 0; q < ow; ++q)
          move(((n * h + r * stride) * w + q * stride) * c, ((n * oh + r) * ow + q) * channels);
      }
    }
  };
  by_type(x.scalar_type(), [&]<class T>(T) {
    const T* from = numbers<T>(in);
    T* to = mutable_numbers<T>(y);
    pixels([=](int64_t source, int64_t target) {
      std::copy_n(from + source, c, to + target);
      std::fill_n(to + target + c, channels - c, T());
    });
  });
  return with_backward(
      y, {x},
      [=](const at::Tensor& dy) -> std::vector<at::Tensor> {
        at::Tensor dx = image(batch, c, h, w, dy);
        by_type(dy.scalar_type(), [&]<class T>(T) {
          T* out = mutable_numbers<T>(dx);
          std::fill_n(out, dx.numel(), T());
          const T* gradient = numbers<T>(dy);
          pixels([=](int64_t source, int64_t target) { std::copy_n(gradient + target, c, out + source); });
        });
        return {dx};
      },
      kImageFormat);
}

at::Tensor max_pool_3x3(const at::Tensor& x, OpContext& /*context*/) {
  const at::Tensor in = dense_image(x);
  const PoolShape shape{x.size(0), x.size(1), x.size(2), x.size(3)};
  at::Tensor y = image(shape.batch, shape.channels, shape.out_height(), shape.out_width(), in);
  const at::Tensor codes = at::empty({y.numel()}, at::TensorOptions().dtype(at::kByte));
  by_type(x.scalar_type(), [&]<class T>(T) {
    find_maxima(shape, numbers<T>(in), mutable_numbers<T>(y), codes.data_ptr<uint8_t>());
  });
  return with_backward(
      y, {x},
      [=](const at::Tensor& dy) -> std::vector<at::Tensor> {
        at::Tensor dx = image(shape.batch, shape.channels, shape.height, shape.width, dy);
        by_type(dy.scalar_type(), [&]<class T>(T) {
          send_to_maxima(shape, numbers<T>(dy), codes.const_data_ptr<uint8_t>(), mutable_numbers<T>(dx));
        });
        return {dx};
      },
      kImageFormat);
}

at::Tensor global_average_pool(const at::Tensor& x, OpContext& /*context*/) {
  const at::Tensor in = dense_image(x);
  const int64_t batch = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3);
  at::Tensor y = at::empty({batch, c}, at::TensorOptions().dtype(x.scalar_type()));
  by_type(x.scalar_type(), [&]<class T>(T) {
    for (int64_t n = 0; n < batch; ++n)
      average_pixels(h * w, c, numbers<T>(in) + n * h * w * c, mutable_numbers<T>(y) + n * c);
  });
  return with_backward(y, {x}, [=](const at::Tensor& dy) -> std::vector<at::Tensor> {
    at::Tensor dx = image(batch, c, h, w, dy);
    const auto count = static_cast<float>(h * w);
    by_type(dy.scalar_type(), [&]<class T>(T) {
      T* out = mutable_numbers<T>(dx);
      const T* gradient = numbers<T>(dy);
      for (int64_t n = 0; n < batch; ++n, gradient += c) {
        T* first = out;
        for (int64_t i = 0; i < c; ++i) kernels::set_to(*out++, kernels::to_float(gradient[i]) / count);
        for (int64_t p = 1; p < h * w; ++p, out += c) std::copy_n(first, c, out);
      }
    });
    return {dx};
  });
}

}  // namespace by_kernels
}  // namespace furrow::tensor
