#include <ATen/ATen.h>

#include "furrow/tensor/activation_torch.h"
#include "furrow/tensor/half_rows_torch.h"
#include "furrow/tensor/half_torch.h"
#include "furrow/tensor/kernels/elementwise.h"
#include "furrow/tensor/kernels/scratch.h"

namespace furrow::tensor {

kernels::Activation kernel_activation(Activation activation) {
  switch (activation) {
    case Activation::kRelu:
      return kernels::Activation::kRelu;
    case Activation::kGelu:
      return kernels::Activation::kGelu;
    case Activation::kGeluTanh:
      return kernels::Activation::kGeluTanh;
    case Activation::kSilu:
      return kernels::Activation::kSilu;
    case Activation::kSoftplus:
      return kernels::Activation::kSoftplus;
    case Activation::kTanh:
      return kernels::Activation::kTanh;
    case Activation::kSigmoid:
      return kernels::Activation::kSigmoid;
    case Activation::kNone:
      break;
  }
  return kernels::Activation::kNone;
}

at::Tensor activate(const at::Tensor& in, const at::Tensor& out, Activation activation, bool recorded,
                    int threads) {
  at::Tensor slope;
  if (recorded && kernels::has_slope(kernel_activation(activation))) slope = at::empty_like(in);
  kernels::activation_forward(kernel_activation(activation), in.numel(), in.const_data_ptr<float>(),
                              out.data_ptr<float>(), slope.defined() ? slope.data_ptr<float>() : nullptr,
                              threads);
  return slope;
}

namespace {

kernels::ActivationBackward arguments_of(Activation activation, const float* gate) {
  kernels::ActivationBackward args;
  args.activation = kernel_activation(activation);
  (kernels::has_slope(args.activation) ? args.slope : args.y) = gate;
  return args;
}

// In blocks of rows, the bias' gradient in the order of blocks.
at::Tensor half_activation_gradient(Activation activation, const at::Tensor& gate, const at::Tensor& dy,
                                    float* db, int threads) {
  const int64_t columns = dy.size(-1), rows = dy.numel() / columns, each = block_rows(columns);
  const at::Tensor dz = at::empty_like(dy);
  const HalfRows gates(gate, columns), given(dy, columns), made(dz, columns);
  const int64_t blocks = db != nullptr ? (rows + each - 1) / each : 0;
  const at::Tensor sums = at::empty({blocks, columns}, dy.options().dtype(at::kFloat));
  for_row_blocks(rows, columns, threads, [&](int64_t begin, int64_t count) {
    kernels::ScratchScope scratch;
    float* const wide_gate = scratch.floats(count * columns);
    float* const wide = scratch.floats(count * columns);
    gates.read(begin, count, wide_gate);
    given.read(begin, count, wide);
    kernels::ActivationBackward args = arguments_of(activation, wide_gate);
    args.columns = columns;
    args.rows = count;
    args.dy = wide;
    args.dz = wide;
    args.db = db != nullptr ? sums.data_ptr<float>() + begin / each * columns : nullptr;
    kernels::activation_backward(args, 1);
    made.write(begin, count, wide);
  });
  if (db != nullptr) kernels::column_sums(blocks, columns, sums.const_data_ptr<float>(), db, threads);
  return dz;
}

}  // namespace

at::Tensor activation_gradient(Activation activation, const at::Tensor& gate, const at::Tensor& dy, float* db,
                               int threads) {
  const at::Tensor dense_gate = gate.detach().contiguous(), dense_dy = dy.detach().contiguous();
  if (dy.scalar_type() != at::kFloat)
    return half_activation_gradient(activation, dense_gate, dense_dy, db, threads);
  const at::Tensor dz = at::empty_like(dense_dy);
  kernels::ActivationBackward args = arguments_of(activation, dense_gate.const_data_ptr<float>());
  args.columns = dy.size(-1);
  args.rows = dy.numel() / args.columns;
  args.dy = dense_dy.const_data_ptr<float>();
  args.dz = dz.data_ptr<float>();
  args.db = db;
  kernels::activation_backward(args, threads);
  return dz;
}

}  // namespace furrow::tensor
