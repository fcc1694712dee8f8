#include "furrow/tensor/kernels/layer_norm.h"

#include <ATen/ATen.h>

#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/half_torch.h"
#include "furrow/tensor/operations_torch.h"

namespace furrow::tensor {
namespace {

// One call, kept from forward to backward.  All tensors are dense and without history.
struct LayerNormCall {
  int64_t rows = 0, columns = 0;
  at::Tensor x, weight, mean, rstd;
  int weight_index = -1, bias_index = -1;
  int threads = 1;
  GradientSink* sink = nullptr;
};

std::vector<at::Tensor> layer_norm_backward(const LayerNormCall& call, const at::Tensor& gradient) {
  const at::Tensor dy = widened(gradient, call.threads), x = widened(call.x, call.threads);
  at::Tensor dx = at::empty_like(x);
  at::Tensor dweight = at::empty({call.columns}, dy.options()), dbias;
  if (call.bias_index >= 0) dbias = at::empty({call.columns}, dy.options());
  kernels::LayerNormBackward args;
  args.rows = call.rows;
  args.columns = call.columns;
  args.x = x.const_data_ptr<float>();
  args.gamma = call.weight.const_data_ptr<float>();
  args.mean = call.mean.const_data_ptr<float>();
  args.rstd = call.rstd.const_data_ptr<float>();
  args.dy = dy.const_data_ptr<float>();
  args.dx = dx.data_ptr<float>();
  args.dgamma = dweight.data_ptr<float>();
  args.dbeta = dbias.defined() ? dbias.data_ptr<float>() : nullptr;
  kernels::layer_norm_backward(args, call.threads);
  if (call.sink != nullptr) {
    call.sink->put(call.weight_index, dweight);
    if (dbias.defined()) call.sink->put(call.bias_index, dbias);
  }
  return {narrowed(dx, gradient.scalar_type(), call.threads)};
}

}  // namespace

namespace by_kernels {

at::Tensor layer_norm(const at::Tensor& x, const Param& weight, const Param& bias, double eps,
                      OpContext& context) {
  FURROW_CHECK(x.dim() >= 1 && is_number(x) && x.size(-1) == weight.leaf.numel(),
               "layer_norm reads numbers [..., width]");
  LayerNormCall call;
  call.columns = x.size(-1);
  call.rows = x.numel() / call.columns;
  call.x = x.detach().contiguous();
  const at::Tensor wide = widened(x, context.threads),
                   beta = bias.defined() ? widened(bias.leaf, 1) : at::Tensor();
  call.weight = widened(weight.leaf, 1);
  call.mean = at::empty({call.rows}, wide.options());
  call.rstd = at::empty({call.rows}, wide.options());
  call.weight_index = weight.index;
  call.bias_index = bias.index;
  call.threads = context.threads;
  call.sink = context.sink;
  at::Tensor y = at::empty_like(wide);
  kernels::LayerNormForward args;
  args.rows = call.rows;
  args.columns = call.columns;
  args.x = wide.const_data_ptr<float>();
  args.gamma = call.weight.const_data_ptr<float>();
  args.beta = beta.defined() ? beta.const_data_ptr<float>() : nullptr;
  args.eps = static_cast<float>(eps);
  args.y = y.data_ptr<float>();
  args.mean = call.mean.data_ptr<float>();
  args.rstd = call.rstd.data_ptr<float>();
  kernels::layer_norm_forward(args, context.threads);
  return with_backward(narrowed(y, x.scalar_type(), context.threads), {x, weight.leaf},
                       [call](const at::Tensor& dy) { return layer_norm_backward(call, dy); });
}

}  // namespace by_kernels
}  // namespace furrow::tensor
