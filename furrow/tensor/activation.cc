#include <ATen/ATen.h>

#include "furrow/tensor/activation_torch.h"
#include "furrow/tensor/half_torch.h"
#include "furrow/tensor/kernels/elementwise.h"

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

at::Tensor activate(const at::Tensor& in, const at::Tensor& out, Activation activation, bool recorded,
                    int threads) {
  at::Tensor slope;
  if (recorded && activation >= Activation::kGelu) slope = at::empty_like(in);
  kernels::activation_forward(kernel_activation(activation), in.numel(), in.const_data_ptr<float>(),
                              out.data_ptr<float>(), slope.defined() ? slope.data_ptr<float>() : nullptr,
                              threads);
  return slope;
}

at::Tensor activation_gradient(Activation activation, const at::Tensor& gate, const at::Tensor& dy, float* db,
                               int threads) {
  const at::Tensor wide_gate = widened(gate, threads), wide_dy = widened(dy, threads);
  const bool copied = dy.scalar_type() != at::kFloat;  // so what comes may take the place of what was read
  const at::Tensor dz = copied ? wide_dy : at::empty_like(wide_dy);
  kernels::ActivationBackward args;
  args.columns = dy.size(-1);
  args.rows = dy.numel() / args.columns;
  args.activation = kernel_activation(activation);
  args.dy = wide_dy.const_data_ptr<float>();
  (activation == Activation::kRelu ? args.y : args.slope) = wide_gate.const_data_ptr<float>();
  args.dz = dz.data_ptr<float>();
  args.db = db;
  kernels::activation_backward(args, threads);
  return narrowed(dz, dy.scalar_type(), threads);
}

}  // namespace furrow::tensor
