#include <ATen/ATen.h>

#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/adapter_torch.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/half_torch.h"
#include "furrow/tensor/kernels/gemm.h"
#include "furrow/tensor/ops_torch.h"
#include "furrow/tensor/product_torch.h"

namespace furrow::tensor {

kernels::Activation kernel_activation(Activation activation) {
  switch (activation) {
    case Activation::kRelu:
      return kernels::Activation::kRelu;
    case Activation::kGelu:
      return kernels::Activation::kGelu;
    case Activation::kGeluTanh:
      return kernels::Activation::kGeluTanh;
    case Activation::kNone:
      break;
  }
  return kernels::Activation::kNone;
}

namespace {

// One call, kept from forward to backward.  All tensors are dense and without history.
struct LinearCall {
  kernels::LinearShape shape;
  Activation activation = Activation::kNone;
  at::Tensor x, weight;
  at::Tensor gate;  // what the activation's backward reads: ReLU's output, GELU's slope
  int weight_index = -1, bias_index = -1;
  bool input_gradient = false;
  int threads = 1;
  GradientSink* sink = nullptr;
};

// The gradient of x weight^T + bias; puts the bias'.
at::Tensor before_activation(const LinearCall& call, const at::Tensor& dy) {
  const bool with_bias = call.bias_index >= 0 && call.sink != nullptr && call.sink->wants(call.bias_index);
  at::Tensor dz = dy, db;
  if (!with_bias && call.activation == Activation::kNone) return dz;
  const at::Tensor wide = widened(dy, call.threads);
  if (with_bias) db = at::empty({call.shape.out}, wide.options());
  if (call.activation == Activation::kNone) {
    kernels::column_sums(call.shape.rows, call.shape.out, wide.const_data_ptr<float>(), db.data_ptr<float>(),
                         call.threads);
  } else {
    const at::Tensor gate = widened(call.gate, call.threads);
    dz = at::empty_like(wide);
    kernels::ActivationBackward args;
    args.rows = call.shape.rows;
    args.columns = call.shape.out;
    args.activation = kernel_activation(call.activation);
    args.dy = wide.const_data_ptr<float>();
    (call.activation == Activation::kRelu ? args.y : args.slope) = gate.const_data_ptr<float>();
    args.dz = dz.data_ptr<float>();
    args.db = with_bias ? db.data_ptr<float>() : nullptr;
    kernels::activation_backward(args, call.threads);
    dz = narrowed(dz, dy.scalar_type(), call.threads);
  }
  if (with_bias) call.sink->put(call.bias_index, db);
  return dz;
}

void defer_weight(const LinearCall& call, const at::Tensor& dz) {
  if (call.sink == nullptr) return;
  call.sink->defer(call.weight_index,
                   [shape = call.shape, x = call.x, dz, threads = call.threads](float* out) {
                     Product product{shape.out, shape.in, shape.rows, {dz, 1, shape.out}, {x, shape.in}};
                     product.wide_c = out;
                     product.ldc = shape.in;
                     multiply(product, threads);
                   });
}

std::vector<at::Tensor> linear_backward(const LinearCall& call, const at::Tensor& dy) {
  const at::Tensor dz = before_activation(call, dy);
  defer_weight(call, dz);
  if (!call.input_gradient) return {};
  const kernels::LinearShape& s = call.shape;
  Product product{s.rows, s.in, s.out, {dz, s.out}, {call.weight, s.in}};
  product.c = at::empty_like(call.x);
  product.ldc = s.in;
  multiply(product, call.threads);
  return {product.c};
}

}  // namespace

at::Tensor linear(const at::Tensor& x, const Param& weight, const Param& bias, Activation activation,
                  OpContext& context) {
  if (weight.adapter != nullptr) return linear_with_adapter(x, weight, bias, activation, context);
  FURROW_CHECK(x.dim() >= 2 && is_number(x) && x.size(-1) == weight.leaf.size(1),
               "linear reads numbers [..., in]");
  LinearCall call;
  call.shape = {x.numel() / x.size(-1), weight.leaf.size(1), weight.leaf.size(0)};
  call.activation = activation;
  call.x = x.detach().contiguous();
  call.weight = weight.leaf.detach();
  call.weight_index = weight.index;
  call.bias_index = bias.index;
  call.input_gradient = x.requires_grad();
  call.threads = context.threads;
  call.sink = context.sink;
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes.back() = call.shape.out;
  at::Tensor y = at::empty(sizes, call.x.options());
  const bool recorded = needs_backward({x, weight.leaf});
  if (recorded && activation >= Activation::kGelu) call.gate = at::empty_like(y);

  const kernels::LinearShape& s = call.shape;
  Product product{s.rows, s.out, s.in, {call.x, s.in}, {call.weight, 1, s.in}};
  product.c = y;
  product.ldc = s.out;
  if (bias.defined()) product.bias = bias.leaf.detach();
  product.activation = kernel_activation(activation);
  product.slope = call.gate;
  multiply(product, context.threads);
  if (!recorded) return y;
  if (activation == Activation::kRelu) call.gate = y.detach();
  return with_backward(y, {x, weight.leaf},
                       [call](const at::Tensor& dy) { return linear_backward(call, dy); });
}

}  // namespace furrow::tensor
