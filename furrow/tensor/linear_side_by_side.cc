#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/half_rows_torch.h"
#include "furrow/tensor/half_torch.h"
#include "furrow/tensor/kernels/gemm.h"
#include "furrow/tensor/operations_torch.h"
#include "furrow/tensor/product_torch.h"
#include "furrow/tensor/tensor_axis_torch.h"

namespace furrow::tensor {
namespace {

// A weight, the bias where there is one, and where its columns of the result begin.
struct Layer {
  at::Tensor weight, bias;  // [out, in], [out]
  int index = -1, bias_index = -1;
  int64_t out = 0, begin = 0;
};

// One call, kept from forward to backward.  All tensors are dense and without history.
struct Call {
  int64_t rows = 0, in = 0, out = 0;
  std::vector<Layer> layers;
  at::Tensor x;
  bool input_gradient = false, wide_input = false;  // wide: the gradient stays float32
  int threads = 1;
  GradientSink* sink = nullptr;
  TensorAxis* axis = nullptr;  // of several ranks: x has been gathered, its gradient is scattered
};

// Those of all biases are parts of one sum.
void put_biases(const Call& call, const at::Tensor& dy) {
  const auto wanted = [sink = call.sink](const Layer& layer) {
    return layer.bias_index >= 0 && sink->wants(layer.bias_index);
  };
  if (std::ranges::none_of(call.layers, wanted)) return;
  const at::Tensor sums = column_sums(dy, call.threads);
  for (const Layer& layer : call.layers) {
    if (wanted(layer)) call.sink->put(layer.bias_index, sums.narrow(0, layer.begin, layer.out));
  }
}

void defer_weights(const Call& call, const at::Tensor& dy) {
  for (const Layer& layer : call.layers) {
    call.sink->defer(layer.index, [rows = call.rows, in = call.in, all = call.out, out_size = layer.out,
                                   begin = layer.begin, x = call.x, dy, threads = call.threads](float* out) {
      Product product{out_size, in, rows, {dy, 1, all, begin}, {x, in}};
      product.wide_c = out;
      product.ldc = in;
      multiply(product, threads);
    });
  }
}

// dx = dy [W_0; W_1; ...]: one chain over all outputs.
std::vector<at::Tensor> backward(const Call& call, const at::Tensor& dy) {
  if (call.sink != nullptr) {
    put_biases(call, dy);
    defer_weights(call, dy);
  }
  if (!call.input_gradient) return {};
  at::Tensor dx = at::empty(call.x.sizes(), call.x.options().dtype(at::kFloat));
  for (const Layer& layer : call.layers) {
    Product product{call.rows, call.in, layer.out, {dy, call.out, 1, layer.begin}, {layer.weight, call.in}};
    product.wide_c = dx.data_ptr<float>();
    product.ldc = call.in;
    product.accumulate = layer.begin > 0;
    multiply(product, call.threads);
  }
  if (call.axis != nullptr) dx = call.axis->reduce_scatter(dx, 1);
  return {call.wide_input ? dx : narrowed(dx, dy.scalar_type(), call.threads)};
}

void add(const Param& weight, const Param& bias, Call* call) {
  FURROW_CHECK(weight.leaf.dim() == 2 && weight.leaf.size(1) == call->in, "layers over one input");
  Layer layer{weight.leaf.detach(), {}, weight.index, bias.index, weight.leaf.size(0), call->out};
  if (bias.defined()) layer.bias = bias.leaf.detach();
  call->out += layer.out;
  call->layers.push_back(std::move(layer));
}

Call call_of(const at::Tensor& x, const SideBySideLayers& layers, const OpContext& context) {
  Call call;
  call.in = x.size(-1);
  const at::ScalarType type = layers.weights.front().leaf.scalar_type();
  call.wide_input = x.scalar_type() != type;
  call.x = rounded((layers.read.defined() ? layers.read : x).detach().contiguous(), type, context.threads);
  if (layers.cut == Cut::kPositionsToColumns && shared(context)) {
    call.axis = context.axis;
    call.x = call.axis->all_gather(call.x, 1);
  }
  call.rows = call.x.numel() / call.in;
  for (size_t i = 0; i < layers.weights.size(); ++i)
    add(layers.weights[i], layers.biases.empty() ? Param() : layers.biases[i], &call);
  call.input_gradient = x.requires_grad();
  call.threads = context.threads;
  call.sink = context.sink;
  return call;
}

}  // namespace

namespace by_kernels {

at::Tensor linear_side_by_side(const at::Tensor& x, const SideBySideLayers& layers, OpContext& context) {
  const Call call = call_of(x, layers, context);
  std::vector<int64_t> sizes = call.x.sizes().vec();
  sizes.back() = call.out;
  at::Tensor y = at::empty(sizes, call.x.options());
  for (const Layer& layer : call.layers) {
    Product product{call.rows, layer.out, call.in, {call.x, call.in}, {layer.weight, 1, call.in}};
    product.c = y;
    product.c_offset = layer.begin;
    product.ldc = call.out;
    product.bias = layer.bias;
    multiply(product, context.threads);
  }
  return with_backward(y, {x, layers.weights.front().leaf},
                       [call](const at::Tensor& dy) { return backward(call, dy); });
}

}  // namespace by_kernels
}  // namespace furrow::tensor
