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
#include "furrow/tensor/image_operations_torch.h"
#include "furrow/tensor/kernels/pixel_conv.h"

namespace furrow::tensor {
namespace {

constexpr at::MemoryFormat kFormat = at::MemoryFormat::ChannelsLast;

at::Tensor image(int64_t batch, int64_t channels, int64_t height, int64_t width, const at::Tensor& like) {
  return at::empty({batch, channels, height, width}, like.options(), kFormat);
}

at::Tensor dense(const at::Tensor& x) {
  FURROW_CHECK(x.dim() == 4 && x.scalar_type() == at::kFloat,
               "an image is float32 [batch, channels, height, width]");
  return x.detach().contiguous(kFormat);
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
      kernels::pixel_conv_backward_weight(
          {call.shape, call.x.const_data_ptr<float>(), dy.const_data_ptr<float>(), out}, call.threads);
    });
  }
  if (!call.input_gradient) return {};
  at::Tensor dx = at::empty_like(call.x);
  kernels::pixel_conv_backward_input(
      {call.shape, dy.const_data_ptr<float>(), call.weight.const_data_ptr<float>(), dx.data_ptr<float>()},
      call.threads);
  return {dx};
}

}  // namespace

namespace by_kernels {

at::Tensor strided_conv2d(const at::Tensor& x, const Param& weight, const StridedConvolution& convolution,
                          OpContext& context) {
  FURROW_CHECK(weight.leaf.dim() == 4 && x.dim() == 4 && weight.leaf.size(1) == x.size(1) &&
                   weight.leaf.size(2) == weight.leaf.size(3),
               "a convolution's weight is [out, channels of its input, k, k]");
  ConvolutionCall call;
  call.x = dense(x);
  call.weight = weight.leaf.detach();
  call.shape = {x.size(0),           x.size(1),           x.size(2),          x.size(3),
                weight.leaf.size(0), weight.leaf.size(2), convolution.stride, convolution.padding};
  call.weight_index = weight.index;
  call.input_gradient = x.requires_grad();
  call.threads = context.threads;
  call.sink = context.sink;
  at::Tensor y =
      image(x.size(0), call.shape.out_channels, call.shape.out_height(), call.shape.out_width(), call.x);
  kernels::pixel_conv_forward(
      {call.shape, call.x.const_data_ptr<float>(), call.weight.const_data_ptr<float>(), y.data_ptr<float>()},
      context.threads);
  return with_backward(
      y, {x, weight.leaf}, [call](const at::Tensor& dy) { return convolution_backward(call, dy); }, kFormat);
}

at::Tensor subsample_and_pad(const at::Tensor& x, int64_t stride, int64_t channels, OpContext& /*context*/) {
  const at::Tensor in = dense(x);
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
  const float* from = in.const_data_ptr<float>();
  float* to = y.data_ptr<float>();
  pixels([=](int64_t source, int64_t target) {
    std::copy_n(from + source, c, to + target);
    std::fill_n(to + target + c, channels - c, 0.0F);
  });
  return with_backward(
      y, {x},
      [=](const at::Tensor& dy) -> std::vector<at::Tensor> {
        at::Tensor dx = image(batch, c, h, w, dy);
        float* out = dx.data_ptr<float>();
        std::fill_n(out, dx.numel(), 0.0F);
        const float* gradient = dy.const_data_ptr<float>();
        pixels([=](int64_t source, int64_t target) { std::copy_n(gradient + target, c, out + source); });
        return {dx};
      },
      kFormat);
}

at::Tensor max_pool_3x3(const at::Tensor& x, OpContext& /*context*/) {
  const at::Tensor in = dense(x);
  const int64_t batch = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3);
  const int64_t oh = (h - 1) / 2 + 1, ow = (w - 1) / 2 + 1;
  at::Tensor y = image(batch, c, oh, ow, in);
  const at::Tensor codes = at::empty({y.numel()}, at::TensorOptions().dtype(at::kByte));
  // What a code says: the pixel of the window, in row-major order.
  const auto source = [=](int64_t n, int64_t r, int64_t q, int code) {
    return ((n * h + 2 * r - 1 + code / 3) * w + 2 * q - 1 + code % 3) * c;
  };
  const float* from = in.const_data_ptr<float>();
  float* to = y.data_ptr<float>();
  uint8_t* code = codes.data_ptr<uint8_t>();
  for (int64_t n = 0; n < batch; ++n) {
    for (int64_t r = 0; r < oh; ++r) {
      for (int64_t q = 0; q < ow; ++q, to += c, code += c) {
        std::fill_n(to, c, -std::numeric_limits<float>::infinity());
        std::fill_n(code, c, static_cast<uint8_t>(4));
        for (int k = 0; k < 9; ++k) {
          const int64_t yy = 2 * r - 1 + k / 3, xx = 2 * q - 1 + k % 3;
          if (yy < 0 || yy >= h || xx < 0 || xx >= w) continue;
          const float* pixel = from + source(n, r, q, k);
          for (int64_t i = 0; i < c; ++i) {
            const bool wins = pixel[i] > to[i] || std::isnan(pixel[i]);
            to[i] = wins ? pixel[i] : to[i];
            code[i] = wins ? static_cast<uint8_t>(k) : code[i];
          }
        }
      }
    }
  }
  return with_backward(
      y, {x},
      [=](const at::Tensor& dy) -> std::vector<at::Tensor> {
        at::Tensor dx = image(batch, c, h, w, dy);
        float* out = dx.data_ptr<float>();
        std::fill_n(out, dx.numel(), 0.0F);
        const float* gradient = dy.const_data_ptr<float>();
        const uint8_t* where = codes.const_data_ptr<uint8_t>();
        for (int64_t n = 0; n < batch; ++n) {
          for (int64_t r = 0; r < oh; ++r) {
            for (int64_t q = 0; q < ow; ++q, gradient += c, where += c) {
              for (int64_t i = 0; i < c; ++i) out[source(n, r, q, where[i]) + i] += gradient[i];
            }
          }
        }
        return {dx};
      },
      kFormat);
}

at::Tensor global_average_pool(const at::Tensor& x, OpContext& /*context*/) {
  const at::Tensor in = dense(x);
  const int64_t batch = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3);
  const auto count = static_cast<float>(h * w);
  at::Tensor y = at::zeros({batch, c}, in.options());
  const float* from = in.const_data_ptr<float>();
  float* to = y.data_ptr<float>();
  for (int64_t n = 0; n < batch; ++n, to += c) {
    for (int64_t p = 0; p < h * w; ++p, from += c) {
      for (int64_t i = 0; i < c; ++i) to[i] += from[i];
    }
    for (int64_t i = 0; i < c; ++i) to[i] /= count;
  }
  return with_backward(y, {x}, [=](const at::Tensor& dy) -> std::vector<at::Tensor> {
    at::Tensor dx = image(batch, c, h, w, dy);
    float* out = dx.data_ptr<float>();
    const float* gradient = dy.const_data_ptr<float>();
    for (int64_t n = 0; n < batch; ++n, gradient += c) {
      for (int64_t p = 0; p < h * w; ++p, out += c) {
        for (int64_t i = 0; i < c; ++i) out[i] = gradient[i] / count;
      }
    }
    return {dx};
  });
}

}  // namespace by_kernels
}  // namespace furrow::tensor
