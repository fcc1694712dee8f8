#include <ATen/ATen.h>

#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/half_torch.h"
#include "furrow/tensor/kernels/conv2d.h"
#include "furrow/tensor/operations_torch.h"

namespace furrow::tensor {
namespace {

// One call, kept from forward to backward.  All tensors are dense and without history.
struct ConvolutionCall {
  kernels::Conv2dShape shape;
  at::Tensor x, weight, codes;
  int weight_index = -1, bias_index = -1;
  bool input_gradient = false;
  int threads = 1;
  GradientSink* sink = nullptr;

  const uint8_t* code_data() const { return codes.defined() ? codes.const_data_ptr<uint8_t>() : nullptr; }
};

kernels::Conv2dShape shape_of(const at::Tensor& x, const at::Tensor& weight, const Convolution& convolution) {
  FURROW_CHECK(x.dim() == 4 && is_number(x) && weight.dim() == 4 && x.size(1) == weight.size(1) &&
                   weight.size(2) == weight.size(3),
               "conv2d reads numbers [batch, channels, height, width]");
  kernels::Conv2dShape shape;
  shape.batch = x.size(0);
  shape.in_channels = x.size(1);
  shape.height = x.size(2);
  shape.width = x.size(3);
  shape.out_channels = weight.size(0);
  shape.kernel = weight.size(2);
  shape.padding = convolution.padding;
  shape.relu = convolution.relu;
  shape.pool = convolution.pool;
  return shape;
}

// One pass gives both gradients, so the bias' comes with the weight's.
void defer_weight_and_bias(const ConvolutionCall& call, const at::Tensor& gradient) {
  if (call.sink == nullptr) return;
  std::vector<int> parameters{call.weight_index};
  if (call.bias_index >= 0) parameters.push_back(call.bias_index);
  call.sink->defer(std::move(parameters), [call, gradient](std::span<float* const> out) {
    const at::Tensor x = widened(call.x, call.threads), dy = widened(gradient, call.threads);
    kernels::Conv2dBackwardWeight args;
    args.shape = call.shape;
    args.x = x.const_data_ptr<float>();
    args.dy = dy.const_data_ptr<float>();
    args.codes = call.code_data();
    args.dweight = out[0];
    args.dbias = out.size() > 1 ? out[1] : nullptr;
    kernels::conv2d_backward_weight(args, call.threads);
  });
}

std::vector<at::Tensor> convolution_backward(const ConvolutionCall& call, const at::Tensor& gradient) {
  defer_weight_and_bias(call, gradient);
  if (!call.input_gradient) return {};
  const at::Tensor dy = widened(gradient, call.threads), weight = widened(call.weight, call.threads);
  at::Tensor dx = at::empty(call.x.sizes(), dy.options());
  kernels::Conv2dBackwardInput args;
  args.shape = call.shape;
  args.dy = dy.const_data_ptr<float>();
  args.codes = call.code_data();
  args.weight = weight.const_data_ptr<float>();
  args.dx = dx.data_ptr<float>();
  kernels::conv2d_backward_input(args, call.threads);
  return {narrowed(dx, gradient.scalar_type(), call.threads)};
}

}  // namespace

namespace by_kernels {

at::Tensor conv2d(const at::Tensor& x, const Param& weight, const Param& bias, const Convolution& convolution,
                  OpContext& context) {
  ConvolutionCall call;
  call.shape = shape_of(x, weight.leaf, convolution);
  call.x = x.detach().contiguous();
  call.weight = weight.leaf.detach();
  call.weight_index = weight.index;
  call.bias_index = bias.index;
  call.input_gradient = x.requires_grad();
  call.threads = context.threads;
  call.sink = context.sink;
  at::Tensor y =
      at::empty({call.shape.batch, call.shape.out_channels, call.shape.out_height(), call.shape.out_width()},
                at::TensorOptions().dtype(at::kFloat));
  const at::Tensor wide = widened(call.x, context.threads),
                   wide_weight = widened(call.weight, context.threads);
  const at::Tensor wide_bias = bias.defined() ? widened(bias.leaf, 1) : at::Tensor();
  const bool recorded = needs_backward({x, weight.leaf});
  if (const int64_t bytes = call.shape.code_bytes(); recorded && bytes > 0) {
    call.codes = at::empty({bytes}, at::TensorOptions().dtype(at::kByte));
  }
  kernels::Conv2dForward args;
  args.shape = call.shape;
  args.x = wide.const_data_ptr<float>();
  args.weight = wide_weight.const_data_ptr<float>();
  args.bias = wide_bias.defined() ? wide_bias.const_data_ptr<float>() : nullptr;
  args.y = y.data_ptr<float>();
  args.codes = call.codes.defined() ? call.codes.data_ptr<uint8_t>() : nullptr;
  kernels::conv2d_forward(args, context.threads);
  return with_backward(narrowed(y, x.scalar_type(), context.threads), {x, weight.leaf},
                       [call](const at::Tensor& dy) { return convolution_backward(call, dy); });
}

}  // namespace by_kernels
}  // namespace furrow::tensor
