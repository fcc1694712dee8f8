#include "furrow/tensor/kernels/rms_norm.h"

#include <ATen/ATen.h>

#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/half_torch.h"
#include "furrow/tensor/operations_torch.h"

namespace furrow::tensor {
namespace {

// One call, kept from forward to backward.  All tensors are dense and without history.
struct RmsNormCall {
  int64_t rows = 0, columns = 0;
  at::Tensor x, weight, rrms;
  int weight_index = -1;
  int threads = 1;
  GradientSink* sink = nullptr;
};

std::vector<at::Tensor> rms_norm_backward(const RmsNormCall& call, const at::Tensor& gradient) {
  const at::Tensor dy = widened(gradient, call.threads), x = widened(call.x, call.threads);
  at::Tensor dx = at::empty_like(x);
  at::Tensor dweight = at::empty({call.columns}, dy.options());
  kernels::RmsNormBackward args;
  args.rows = call.rows;
  args.columns = call.columns;
  args.x = x.const_data_ptr<float>();
  args.gamma = call.weight.const_data_ptr<float>();
  args.rrms = call.rrms.const_data_ptr<float>();
  args.dy = dy.const_data_ptr<float>();
  args.dx = dx.data_ptr<float>();
  args.dgamma = dweight.data_ptr<float>();
  kernels::rms_norm_backward(args, call.threads);
  if (call.sink != nullptr) call.sink->put(call.weight_index, dweight);
  return {narrowed(dx, gradient.scalar_type(), call.threads)};
}

}  // namespace

namespace by_kernels {

at::Tensor rms_norm(const at::Tensor& x, const Param& weight, double eps, OpContext& context) {
  FURROW_CHECK(x.dim() >= 1 && is_number(x) && x.size(-1) == weight.leaf.numel(),
               "rms_norm reads numbers [..., width]");
  RmsNormCall call;
  call.columns = x.size(-1);
  call.rows = x.numel() / call.columns;
  call.x = x.detach().contiguous();
  const at::Tensor wide = widened(x, context.threads);
  call.weight = widened(weight.leaf, 1);
  call.rrms = at::empty({call.rows}, wide.options());
  call.weight_index = weight.index;
  call.threads = context.threads;
  call.sink = context.sink;
  at::Tensor y = at::empty_like(wide);
  kernels::RmsNormForward args;
  args.rows = call.rows;
  args.columns = call.columns;
  args.x = wide.const_data_ptr<float>();
  args.gamma = call.weight.const_data_ptr<float>();
  args.eps = static_cast<float>(eps);
  args.y = y.data_ptr<float>();
  args.rrms = call.rrms.data_ptr<float>();
  kernels::rms_norm_forward(args, context.threads);
  return with_backward(narrowed(y, x.scalar_type(), context.threads), {x, weight.leaf},
                       [call](const at::Tensor& dy) { return rms_norm_backward(call, dy); });
}

}  // namespace by_kernels
}  // namespace furrow::tensor
