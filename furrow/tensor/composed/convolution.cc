// Convolutions as compositions, in float32.
#include <ATen/ATen.h>

#include <array>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/composition_torch.h"
#include "furrow/tensor/half_torch.h"
#include "furrow/tensor/operations_torch.h"

namespace furrow::tensor::by_composition {
namespace {

struct ConvolutionCall {
  Convolution convolution;
  at::Tensor x, weight;
  at::Tensor activation, places;  // before the pool; which pixels it took
  int weight_index = -1, bias_index = -1;
  bool input_gradient = false;
  GradientSink* sink = nullptr;
};

// Of the gradients of x, weight and bias those that `mask` asks for.
std::array<at::Tensor, 3> convolution_gradients(const ConvolutionCall& call, const at::Tensor& dz,
                                                const std::array<bool, 3>& mask) {
  const at::Tensor x = widened(call.x, 1), weight = widened(call.weight, 1);
  const std::array<int64_t, 1> out = {weight.size(0)};
  const std::array<int64_t, 2> one = {1, 1}, none = {0, 0},
                               padding = {call.convolution.padding, call.convolution.padding};
  auto [dx, dweight, dbias] =
      at::convolution_backward(dz, x, weight, at::OptionalIntArrayRef(out), one, padding, one,
                               /*transposed=*/false, none, /*groups=*/1, mask);
  return {dx, dweight, dbias};
}

std::vector<at::Tensor> convolution_backward(const ConvolutionCall& call, const at::Tensor& dy) {
  at::Tensor dz = widened(dy, 1);
  if (call.convolution.pool)
    dz = at::max_pool2d_with_indices_backward(dz, call.activation, {2, 2}, {2, 2}, {0, 0}, {1, 1},
                                              /*ceil_mode=*/false, call.places);
  if (call.convolution.relu) dz = at::threshold_backward(dz, call.activation, 0);
  if (call.sink != nullptr) {
    std::vector<int> parameters{call.weight_index};
    if (call.bias_index >= 0) parameters.push_back(call.bias_index);
    call.sink->defer(std::move(parameters), [call, dz](std::span<float* const> out) {
      const auto gradients = convolution_gradients(call, dz, {false, true, out.size() > 1});
      over(out[0], call.weight.sizes(), dz.device()).copy_(gradients[1]);
      if (out.size() > 1) over(out[1], {call.weight.size(0)}, dz.device()).copy_(gradients[2]);
    });
  }
  if (!call.input_gradient) return {};
  return {narrowed(convolution_gradients(call, dz, {true, false, false})[0], dy.scalar_type(), 1)};
}

}  // namespace

at::Tensor conv2d(const at::Tensor& x, const Param& weight, const Param& bias, const Convolution& convolution,
                  OpContext& context) {
  FURROW_CHECK(x.dim() == 4 && is_number(x) && weight.leaf.dim() == 4 && x.size(1) == weight.leaf.size(1),
               "conv2d reads numbers [batch, channels, height, width]");
  ConvolutionCall call;
  call.convolution = convolution;
  call.x = x.detach();
  call.weight = weight.leaf.detach();
  call.weight_index = weight.index;
  call.bias_index = bias.index;
  call.input_gradient = x.requires_grad();
  call.sink = context.sink;
  at::Tensor y = at::conv2d(widened(x, 1), widened(weight.leaf, 1),
                            bias.defined() ? widened(bias.leaf, 1) : at::Tensor(), 1, convolution.padding);
  if (convolution.relu) y = at::relu(y);
  call.activation = y;
  if (convolution.pool) std::tie(y, call.places) = at::max_pool2d_with_indices(y, {2, 2}, {2, 2});
  at::Tensor out = narrowed(y, x.scalar_type(), 1);
  if (out.is_same(call.activation)) call.activation = out.detach();
  return with_backward(out, {x, weight.leaf},
                       [call](const at::Tensor& dy) { return convolution_backward(call, dy); });
}

}  // namespace furrow::tensor::by_composition
