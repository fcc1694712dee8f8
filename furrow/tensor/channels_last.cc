// Operations over images whose channels lie side by side: convolution without a bias, pools, shortcuts.
#include <ATen/ATen.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/half_torch.h"
#include "furrow/tensor/image_operations_torch.h"
#include "furrow/tensor/kernels/parallel.h"
#include "furrow/tensor/kernels/pixel_conv.h"
#include "furrow/tensor/kernels/pool.h"
#include "furrow/tensor/kernels/scratch.h"

namespace furrow::tensor {

at::Tensor dense_image(const at::Tensor& x) {
  FURROW_CHECK(x.dim() == 4 && is_number(x), "an image is numbers [batch, channels, height, width]");
  return x.detach().contiguous(kImageFormat);
}

namespace {

constexpr int64_t kWorthAThread = 16384;  // numbers to move

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

kernels::PoolShape pool_shape(const at::Tensor& x, const Pool& pool) {
  return {x.size(0), x.size(1), x.size(2), x.size(3), pool.kernel, pool.stride, pool.padding};
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

// Its gradient.
template <class T>
void spread_over_pixels(int64_t pixels, int64_t channels, const T* gradient, T* to) {
  const auto count = static_cast<float>(pixels);
  for (int64_t i = 0; i < channels; ++i) kernels::set_to(to[i], kernels::to_float(gradient[i]) / count);
  for (int64_t p = 1; p < pixels; ++p) std::copy_n(to, channels, to + p * channels);
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

at::Tensor subsample_and_pad(const at::Tensor& x, int64_t stride, int64_t channels, OpContext& context) {
  const at::Tensor in = dense_image(x);
  const int64_t batch = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3);
  FURROW_CHECK(channels >= c && stride >= 1, "a shortcut pads channels");
  const int64_t oh = (h - 1) / stride + 1, ow = (w - 1) / stride + 1;
  at::Tensor y = image(batch, channels, oh, ow, in);
  // move(pixel of x, pixel of y) for every pixel that is taken of some images.
  const auto pixels = [=](int64_t begin, int64_t end, const auto& move) {
    for (int64_t n = begin; n < end; ++n) {
      for (int64_t r = 0; r < oh; ++r) {
        for (int64_t q = 0; q < ow; ++q)
          move(((n * h + r * stride) * w + q * stride) * c, ((n * oh + r) * ow + q) * channels);
      }
    }
  };
  const int threads = kernels::team_for(in.numel(), kWorthAThread, context.threads);
  by_type(x.scalar_type(), [&]<class T>(T) {
    const T* from = numbers<T>(in);
    T* to = mutable_numbers<T>(y);
    kernels::parallel_for(threads, batch, [=](int64_t begin, int64_t end) {
      pixels(begin, end, [=](int64_t source, int64_t target) {
        std::copy_n(from + source, c, to + target);
        std::fill_n(to + target + c, channels - c, T());
      });
    });
  });
  return with_backward(
      y, {x},
      [=](const at::Tensor& dy) -> std::vector<at::Tensor> {
        at::Tensor dx = image(batch, c, h, w, dy);
        by_type(dy.scalar_type(), [&]<class T>(T) {
          T* out = mutable_numbers<T>(dx);
          const T* gradient = numbers<T>(dy);
          kernels::parallel_for(threads, batch, [=](int64_t begin, int64_t end) {
            std::fill(out + begin * h * w * c, out + end * h * w * c, T());
            pixels(begin, end,
                   [=](int64_t source, int64_t target) { std::copy_n(gradient + target, c, out + source); });
          });
        });
        return {dx};
      },
      kImageFormat);
}

at::Tensor max_pool(const at::Tensor& x, const Pool& pool, OpContext& context) {
  const at::Tensor in = dense_image(x);
  const kernels::PoolShape shape = pool_shape(x, pool);
  const int threads = context.threads;
  at::Tensor y = image(shape.batch, shape.channels, shape.out_height(), shape.out_width(), in);
  const at::Tensor places = at::empty({y.numel()}, at::TensorOptions().dtype(at::kByte));
  by_type(x.scalar_type(), [&]<class T>(T) {
    kernels::max_pool(
        kernels::MaxPool<T>{shape, numbers<T>(in), mutable_numbers<T>(y), places.data_ptr<uint8_t>()},
        threads);
  });
  return with_backward(
      y, {x},
      [=](const at::Tensor& dy) -> std::vector<at::Tensor> {
        at::Tensor dx = image(shape.batch, shape.channels, shape.height, shape.width, dy);
        by_type(dy.scalar_type(), [&]<class T>(T) {
          kernels::max_pool_backward(
              kernels::MaxPoolBackward<T>{shape, numbers<T>(dy), places.const_data_ptr<uint8_t>(),
                                          mutable_numbers<T>(dx)},
              threads);
        });
        return {dx};
      },
      kImageFormat);
}

at::Tensor average_pool(const at::Tensor& x, const Pool& pool, OpContext& context) {
  const at::Tensor in = dense_image(x);
  const kernels::PoolShape shape = pool_shape(x, pool);
  const int threads = context.threads;
  at::Tensor y = image(shape.batch, shape.channels, shape.out_height(), shape.out_width(), in);
  by_type(x.scalar_type(), [&]<class T>(T) {
    kernels::average_pool(kernels::AveragePool<T>{shape, numbers<T>(in), mutable_numbers<T>(y)}, threads);
  });
  return with_backward(
      y, {x},
      [=](const at::Tensor& dy) -> std::vector<at::Tensor> {
        at::Tensor dx = image(shape.batch, shape.channels, shape.height, shape.width, dy);
        by_type(dy.scalar_type(), [&]<class T>(T) {
          kernels::average_pool_backward(
              kernels::AveragePool<T>{shape, numbers<T>(dy), mutable_numbers<T>(dx)}, threads);
        });
        return {dx};
      },
      kImageFormat);
}

at::Tensor global_average_pool(const at::Tensor& x, OpContext& context) {
  const at::Tensor in = dense_image(x);
  const int64_t batch = x.size(0), c = x.size(1), pixels = x.size(2) * x.size(3);
  const int threads = kernels::team_for(in.numel(), kWorthAThread, context.threads);
  at::Tensor y = at::empty({batch, c}, at::TensorOptions().dtype(x.scalar_type()));
  by_type(x.scalar_type(), [&]<class T>(T) {
    kernels::parallel_for(threads, batch, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n)
        average_pixels(pixels, c, numbers<T>(in) + n * pixels * c, mutable_numbers<T>(y) + n * c);
    });
  });
  return with_backward(
      y, {x}, [=, h = x.size(2), w = x.size(3)](const at::Tensor& dy) -> std::vector<at::Tensor> {
        at::Tensor dx = image(batch, c, h, w, dy);
        by_type(dy.scalar_type(), [&]<class T>(T) {
          kernels::parallel_for(threads, batch, [&](int64_t begin, int64_t end) {
            for (int64_t n = begin; n < end; ++n)
              spread_over_pixels(pixels, c, numbers<T>(dy) + n * c, mutable_numbers<T>(dx) + n * pixels * c);
          });
        });
        return {dx};
      });
}

}  // namespace by_kernels
}  // namespace furrow::tensor
