#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/adapter_torch.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/kernels/gemm.h"
#include "furrow/tensor/ops_torch.h"

namespace furrow::tensor {
namespace {

// A weight and where its columns of the result begin.
struct Layer {
  at::Tensor weight;  // [out, in]
  int index = -1;
  int64_t out = 0, begin = 0;
};

// One call, kept from forward to backward.  All tensors are dense and without history.
struct Call {
  int64_t rows = 0, in = 0, out = 0;
  std::vector<Layer> layers;
  at::Tensor x;
  bool input_gradient = false;
  int threads = 1;
  GradientSink* sink = nullptr;
};

void defer_weights(const Call& call, const at::Tensor& dy) {
  if (call.sink == nullptr) return;
  for (const Layer& layer : call.layers) {
    call.sink->defer(layer.index, [rows = call.rows, in = call.in, all = call.out, out_size = layer.out,
                                   begin = layer.begin, x = call.x, dy, threads = call.threads](float* out) {
      kernels::gemm({.m = out_size,
                     .n = in,
                     .k = rows,
                     .a = {dy.const_data_ptr<float>() + begin, 1, all},
                     .b = {x.const_data_ptr<float>(), in, 1},
                     .c = out,
                     .ldc = in},
                    threads);
    });
  }
}

// dx = dy [W_0; W_1; ...]: one chain over all outputs.
std::vector<at::Tensor> backward(const Call& call, const at::Tensor& dy) {
  defer_weights(call, dy);
  if (!call.input_gradient) return {};
  at::Tensor dx = at::empty_like(call.x);
  for (const Layer& layer : call.layers) {
    kernels::gemm({.m = call.rows,
                   .n = call.in,
                   .k = layer.out,
                   .a = {dy.const_data_ptr<float>() + layer.begin, call.out, 1},
                   .b = {layer.weight.const_data_ptr<float>(), call.in, 1},
                   .c = dx.data_ptr<float>(),
                   .ldc = call.in,
                   .accumulate = layer.begin > 0},
                  call.threads);
  }
  return {dx};
}

Call call_of(const at::Tensor& x, std::span<const Param> weights, const OpContext& context) {
  Call call;
  call.in = x.size(-1);
  call.rows = x.numel() / call.in;
  for (const Param& weight : weights) {
    FURROW_CHECK(weight.leaf.dim() == 2 && weight.leaf.size(1) == call.in, "layers over one input");
    call.layers.push_back({weight.leaf.detach(), weight.index, weight.leaf.size(0), call.out});
    call.out += weight.leaf.size(0);
  }
  call.x = x.detach().contiguous();
  call.input_gradient = x.requires_grad();
  call.threads = context.threads;
  call.sink = context.sink;
  return call;
}

}  // namespace

at::Tensor linear_side_by_side(const at::Tensor& x, std::span<const Param> weights, OpContext& context) {
  const auto adapted = [](const Param& weight) { return weight.adapter != nullptr; };
  if (std::ranges::any_of(weights, adapted)) return side_by_side_with_adapters(x, weights, context);
  FURROW_CHECK(x.dim() >= 2 && x.scalar_type() == at::kFloat && !weights.empty(),
               "linear_side_by_side reads float32 [..., in]");
  const Call call = call_of(x, weights, context);
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes.back() = call.out;
  at::Tensor y = at::empty(sizes, call.x.options());
  for (const Layer& layer : call.layers) {
    kernels::gemm({.m = call.rows,
                   .n = layer.out,
                   .k = call.in,
                   .a = {call.x.const_data_ptr<float>(), call.in, 1},
                   .b = {layer.weight.const_data_ptr<float>(), 1, call.in},
                   .c = y.data_ptr<float>() + layer.begin,
                   .ldc = call.out},
                  context.threads);
  }
  return with_backward(y, {x, weights.front().leaf},
                       [call](const at::Tensor& dy) { return backward(call, dy); });
}

}  // namespace furrow::tensor
