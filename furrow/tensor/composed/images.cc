// The operations of residual networks as compositions: images whose channels lie side by side; float32
// inside, whatever comes and goes.
#include <ATen/ATen.h>

#include <array>
#include <tuple>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/composition_torch.h"
#include "furrow/tensor/half_torch.h"
#include "furrow/tensor/image_operations_torch.h"

namespace furrow::tensor::by_composition {
namespace {

// `x` itself where it is float32; it keeps its format.
at::Tensor wide(const at::Tensor& x) { return x.to(at::kFloat); }

at::Tensor image(const at::Tensor& x, at::ScalarType type) { return x.to(type).contiguous(kImageFormat); }

struct ConvolutionCall {
  StridedConvolution convolution;
  at::Tensor x, weight;
  int weight_index = -1;
  bool input_gradient = false;
  GradientSink* sink = nullptr;
};

std::tuple<at::Tensor, at::Tensor, at::Tensor> gradients_of(const ConvolutionCall& call, const at::Tensor& dy,
                                                            const std::array<bool, 3>& mask) {
  const std::array<int64_t, 2> one = {1, 1}, none = {0, 0},
                               stride = {call.convolution.stride, call.convolution.stride},
                               padding = {call.convolution.padding, call.convolution.padding};
  return at::convolution_backward(wide(dy), wide(call.x), wide(call.weight), at::OptionalIntArrayRef(),
                                  stride, padding, one,
                                  /*transposed=*/false, none, /*groups=*/1, mask);
}

std::vector<at::Tensor> convolution_backward(const ConvolutionCall& call, const at::Tensor& dy) {
  if (call.sink != nullptr) {
    call.sink->defer(call.weight_index, [call, dy](float* out) {
      const at::Tensor gradient = std::get<1>(gradients_of(call, dy, {false, true, false}));
      over(out, call.weight.sizes(), dy.device()).copy_(gradient);
    });
  }
  if (!call.input_gradient) return {};
  return {image(std::get<0>(gradients_of(call, dy, {true, false, false})), dy.scalar_type())};
}

// A pool of squares as libtorch takes it.
struct Sides {
  explicit Sides(const Pool& pool)
      : kernel{pool.kernel, pool.kernel},
        stride{pool.stride, pool.stride},
        padding{pool.padding, pool.padding} {}
  std::array<int64_t, 2> kernel, stride, padding;
};

// One norm, kept from forward to backward.
struct NormCall {
  at::Tensor x, weight, mean, rstd;  // but for x float32
  at::Tensor y;                      // with a ReLU
  double eps = 0;
  bool residual = false;
  int weight_index = -1, bias_index = -1;
  GradientSink* sink = nullptr;
};

std::vector<at::Tensor> norm_backward(const NormCall& call, const at::Tensor& dy) {
  const at::Tensor g = call.y.defined() ? at::threshold_backward(dy, call.y, 0) : dy;
  const at::ScalarType type = dy.scalar_type();
  auto [dx, dweight, dbias] =
      at::native_batch_norm_backward(wide(g), wide(call.x), call.weight, {}, {}, call.mean, call.rstd,
                                     /*train=*/true, call.eps, {true, true, true});
  if (call.sink != nullptr) {
    call.sink->put(call.weight_index, dweight);
    call.sink->put(call.bias_index, dbias);
  }
  if (!call.residual) return {image(dx, type)};
  return {image(dx, type), g};
}

// Mean and biased variance; what x says goes where it is asked for, and nobody waits for it.
std::tuple<at::Tensor, at::Tensor> moments_of(const at::Tensor& x, const BatchNorm& norm,
                                              const OpContext& context) {
  const int64_t channels = x.size(1), rows = x.numel() / channels;
  const auto part = [channels](std::span<const float> all, int64_t offset) {
    return std::span(const_cast<float*>(all.data()) + offset, static_cast<size_t>(channels));
  };
  if (!context.training) {
    FURROW_CHECK(!context.statistics.empty(), "batch norm evaluates with running statistics");
    const auto running = [&](int64_t offset) {
      return over(part(context.statistics, offset), at::kCPU).to(x.device(), at::kFloat);
    };
    return {running(norm.mean_offset), running(norm.variance_offset)};
  }
  check_rows_of_norm(rows);
  const auto [variance, mean] =
      at::var_mean(x, at::IntArrayRef{0, 2, 3}, /*correction=*/at::Scalar(0), /*keepdim=*/false);
  if (!context.batch_statistics.empty()) {
    const double unbiased = static_cast<double>(rows) / static_cast<double>(rows - 1);
    over(part(context.batch_statistics, norm.mean_offset), x.device()).copy_(mean);
    over(part(context.batch_statistics, norm.variance_offset), x.device()).copy_(variance * unbiased);
  }
  return {mean, variance};
}

}  // namespace

at::Tensor strided_conv2d(const at::Tensor& x, const Param& weight, const StridedConvolution& convolution,
                          OpContext& context) {
  FURROW_CHECK(weight.leaf.dim() == 4 && x.dim() == 4 && weight.leaf.size(1) == x.size(1) &&
                   weight.leaf.size(2) == weight.leaf.size(3),
               "a convolution's weight is [out, channels of its input, k, k]");
  const ConvolutionCall call{convolution,  dense_image(x),    weight.leaf.detach().contiguous(kImageFormat),
                             weight.index, x.requires_grad(), context.sink};
  const at::Tensor y =
      at::conv2d(wide(call.x), wide(call.weight), {}, convolution.stride, convolution.padding);
  return with_backward(
      image(y, x.scalar_type()), {x, weight.leaf},
      [call](const at::Tensor& dy) { return convolution_backward(call, dy); }, kImageFormat);
}

at::Tensor batch_norm(const at::Tensor& x, const Param& weight, const Param& bias, const BatchNorm& norm,
                      OpContext& context) {
  FURROW_CHECK(x.dim() == 4 && x.size(1) == weight.leaf.numel(), "batch_norm has a weight for each channel");
  NormCall call;
  call.x = dense_image(x);
  call.weight = wide(weight.leaf.detach());
  call.eps = norm.eps;
  call.residual = norm.residual.defined() && norm.residual.requires_grad();
  call.weight_index = weight.index;
  call.bias_index = bias.index;
  call.sink = context.sink;
  const at::Tensor input = wide(call.x);
  const auto [mean, variance] = moments_of(input, norm, context);
  call.mean = mean;
  call.rstd = (variance + norm.eps).rsqrt_();
  at::Tensor y =
      std::get<0>(at::native_batch_norm(input, call.weight, wide(bias.leaf.detach()), mean, variance,
                                        /*training=*/false, 0, norm.eps));
  if (norm.residual.defined()) y.add_(norm.residual.detach());
  if (norm.relu) y.relu_();
  y = image(y, x.scalar_type());
  if (norm.relu && needs_backward({x, norm.residual, weight.leaf})) call.y = y.detach();
  const auto backward = [call](const at::Tensor& dy) { return norm_backward(call, dy); };
  if (norm.residual.defined())
    return with_backward(y, {x, norm.residual, weight.leaf}, backward, kImageFormat);
  return with_backward(y, {x, weight.leaf}, backward, kImageFormat);
}

at::Tensor subsample_and_pad(const at::Tensor& x, int64_t stride, int64_t channels, OpContext& /*context*/) {
  const at::Tensor in = dense_image(x);
  FURROW_CHECK(channels >= x.size(1) && stride >= 1, "a shortcut pads channels");
  const auto taken = [stride](const at::Tensor& all) {
    return all.slice(2, 0, std::nullopt, stride).slice(3, 0, std::nullopt, stride);
  };
  const at::Tensor y =
      at::constant_pad_nd(taken(in), {0, 0, 0, 0, 0, channels - x.size(1)}).contiguous(kImageFormat);
  return with_backward(
      y, {x},
      [taken, sizes = x.sizes().vec()](const at::Tensor& dy) -> std::vector<at::Tensor> {
        const at::Tensor dx = at::empty(sizes, dy.options(), kImageFormat).zero_();
        taken(dx).copy_(dy.narrow(1, 0, sizes[1]));
        return {dx};
      },
      kImageFormat);
}

at::Tensor max_pool(const at::Tensor& x, const Pool& pool, OpContext& /*context*/) {
  const at::Tensor in = dense_image(x);
  const Sides s(pool);
  auto [y, places] = at::max_pool2d_with_indices(wide(in), s.kernel, s.stride, s.padding);
  return with_backward(
      image(y, x.scalar_type()), {x},
      [in, s, places = places](const at::Tensor& dy) -> std::vector<at::Tensor> {
        const at::Tensor dx =
            at::max_pool2d_with_indices_backward(wide(dy), wide(in), s.kernel, s.stride, s.padding, {1, 1},
                                                 /*ceil_mode=*/false, places);
        return {image(dx, dy.scalar_type())};
      },
      kImageFormat);
}

at::Tensor average_pool(const at::Tensor& x, const Pool& pool, OpContext& /*context*/) {
  const at::Tensor in = dense_image(x);
  const Sides s(pool);
  return with_backward(
      image(at::avg_pool2d(wide(in), s.kernel, s.stride, s.padding), x.scalar_type()), {x},
      [in, s](const at::Tensor& dy) -> std::vector<at::Tensor> {
        const at::Tensor dx =
            at::avg_pool2d_backward(wide(dy), wide(in), s.kernel, s.stride, s.padding, /*ceil_mode=*/false,
                                    /*count_include_pad=*/true, /*divisor_override=*/std::nullopt);
        return {image(dx, dy.scalar_type())};
      },
      kImageFormat);
}

at::Tensor global_average_pool(const at::Tensor& x, OpContext& /*context*/) {
  const at::Tensor in = dense_image(x);
  return with_backward(
      at::mean(in, {2, 3}, false, at::kFloat).to(x.scalar_type()).contiguous(), {x},
      [sizes = x.sizes().vec()](const at::Tensor& dy) -> std::vector<at::Tensor> {
        const auto pixels = static_cast<double>(sizes[2] * sizes[3]);
        return {(dy / pixels).unsqueeze(2).unsqueeze(3).expand(sizes).contiguous(kImageFormat)};
      });
}

}  // namespace furrow::tensor::by_composition
