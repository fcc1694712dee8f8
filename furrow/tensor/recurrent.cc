#include "furrow/tensor/kernels/recurrent.h"

#include <ATen/ATen.h>

#include <memory>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/adapter_torch.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/half_torch.h"
#include "furrow/tensor/kernels/gemm.h"
#include "furrow/tensor/operations_torch.h"

namespace furrow::tensor {
namespace {

// One call, kept from forward to backward.  All tensors are dense and without history.
struct RecurrentCall {
  kernels::RecurrentShape shape;
  int64_t in = 0;
  at::Tensor weight;                       // with its adapter
  std::shared_ptr<const Adapter> adapter;  // null: none
  at::Tensor both;                         // [batch, time, in + hidden]: [x_t, h_{t-1}]
  at::Tensor gates;                        // what the kernels keep there
  at::Tensor cell;                         // LSTM's c
  int weight_index = -1, bias_index = -1;
  bool input_gradient = false;
  int threads = 1;
  GradientSink* sink = nullptr;

  int64_t rows() const { return shape.batch * shape.time; }
  int64_t width() const { return in + shape.hidden; }
  int64_t outputs() const { return shape.parts() * shape.hidden; }
};

RecurrentCall call_of(kernels::Cell cell, const at::Tensor& x, const Param& weight, const Param& bias,
                      const OpContext& context) {
  RecurrentCall call;
  call.shape = {cell, x.size(0), x.size(1), 0, weight.leaf.size(1)};
  call.shape.hidden = weight.leaf.size(0) / call.shape.parts();
  call.in = x.size(-1);
  FURROW_CHECK(x.dim() == 3 && is_number(x) && weight.leaf.size(0) == call.outputs() &&
                   weight.leaf.size(1) == call.width() && bias.leaf.numel() == call.outputs(),
               "a recurrent layer reads numbers [batch, time, in]");
  call.weight = weight_with_adapter(weight, context.threads);
  call.adapter = weight.adapter;
  call.both = at::empty({x.size(0), x.size(1), call.width()}, call.weight.options());
  call.both.narrow(2, 0, call.in).copy_(x.detach());
  call.gates = at::empty({x.size(0), x.size(1), call.outputs()}, call.weight.options());
  call.weight_index = weight.index;
  call.bias_index = bias.index;
  call.input_gradient = x.requires_grad();
  call.threads = context.threads;
  call.sink = context.sink;
  return call;
}

// The input projections of all steps in one product, then the steps.  `out` [rows, hidden] may be null.
void run_forward(const RecurrentCall& call, const at::Tensor& own_bias, float* out) {
  const at::Tensor bias = widened(own_bias, 1);
  kernels::gemm({.m = call.rows(),
                 .n = call.outputs(),
                 .k = call.in,
                 .a = {call.both.const_data_ptr<float>(), call.width(), 1},
                 .b = {call.weight.const_data_ptr<float>(), 1, call.width()},
                 .c = call.gates.data_ptr<float>(),
                 .ldc = call.outputs(),
                 .epilogue = {.bias = bias.const_data_ptr<float>()}},
                call.threads);
  kernels::RecurrentForward args;
  args.shape = call.shape;
  args.weight = call.weight.const_data_ptr<float>() + call.in;
  args.gates = call.gates.data_ptr<float>();
  args.cell = call.cell.defined() ? call.cell.data_ptr<float>() : nullptr;
  args.out = out;
  args.out_stride = call.shape.hidden;
  args.previous = call.both.data_ptr<float>() + call.in;
  args.previous_stride = call.width();
  kernels::recurrent_forward(args, call.threads);
}

// Puts the bias' gradient and defers the weight's, one product over all steps.
void parameter_gradients(const RecurrentCall& call) {
  if (call.sink == nullptr) return;
  at::Tensor dbias = at::empty({call.outputs()}, call.gates.options());
  kernels::column_sums(call.rows(), call.outputs(), call.gates.const_data_ptr<float>(),
                       dbias.data_ptr<float>(), call.threads);
  call.sink->put(call.bias_index, dbias);
  if (call.adapter) defer_adapter(*call.adapter, call.both, call.gates, *call.sink, call.threads);
  call.sink->defer(call.weight_index,
                   [rows = call.rows(), outputs = call.outputs(), width = call.width(), dz = call.gates,
                    both = call.both, threads = call.threads](float* out) {
                     kernels::gemm({.m = outputs,
                                    .n = width,
                                    .k = rows,
                                    .a = {dz.const_data_ptr<float>(), 1, outputs},
                                    .b = {both.const_data_ptr<float>(), width, 1},
                                    .c = out,
                                    .ldc = width},
                                   threads);
                   });
}

// dx = (dx +) dz W_x.
std::vector<at::Tensor> input_gradient(const RecurrentCall& call, at::Tensor dx, bool accumulate,
                                       at::ScalarType type) {
  kernels::gemm({.m = call.rows(),
                 .n = call.in,
                 .k = call.outputs(),
                 .a = {call.gates.const_data_ptr<float>(), call.outputs(), 1},
                 .b = {call.weight.const_data_ptr<float>(), call.width(), 1},
                 .c = dx.data_ptr<float>(),
                 .ldc = call.in,
                 .accumulate = accumulate},
                call.threads);
  return {narrowed(dx, type, call.threads)};
}

kernels::RecurrentBackward backward_of(const RecurrentCall& call) {
  kernels::RecurrentBackward args;
  args.shape = call.shape;
  args.weight = call.weight.const_data_ptr<float>() + call.in;
  args.gates = call.gates.data_ptr<float>();
  return args;
}

std::vector<at::Tensor> lstm_backward(const RecurrentCall& call, const at::Tensor& gradient) {
  const at::Tensor dy = widened(gradient, call.threads);
  kernels::RecurrentBackward args = backward_of(call);
  args.cell = call.cell.const_data_ptr<float>();
  args.dout = dy.const_data_ptr<float>();
  args.dout_stride = call.shape.hidden;
  kernels::recurrent_backward(args, call.threads);
  parameter_gradients(call);
  if (!call.input_gradient) return {};
  return input_gradient(call, at::empty({call.shape.batch, call.shape.time, call.in}, dy.options()), false,
                        gradient.scalar_type());
}

std::vector<at::Tensor> concatenation_backward(const RecurrentCall& call, const at::Tensor& gradient) {
  const at::Tensor dboth = widened(gradient, call.threads);
  kernels::RecurrentBackward args = backward_of(call);
  args.dprevious = dboth.const_data_ptr<float>() + call.in;
  args.dprevious_stride = call.width();
  kernels::recurrent_backward(args, call.threads);
  parameter_gradients(call);
  if (!call.input_gradient) return {};
  return input_gradient(call, dboth.narrow(2, 0, call.in).clone(at::MemoryFormat::Contiguous), true,
                        gradient.scalar_type());
}

}  // namespace

namespace by_kernels {

at::Tensor lstm(const at::Tensor& x, const Param& weight, const Param& bias, OpContext& context) {
  RecurrentCall call = call_of(kernels::Cell::kLstm, x, weight, bias, context);
  at::Tensor h = at::empty({x.size(0), x.size(1), call.shape.hidden}, call.weight.options());
  call.cell = at::empty_like(h);
  run_forward(call, bias.leaf, h.data_ptr<float>());
  return with_backward(narrowed(h, x.scalar_type(), context.threads), {x, weight.leaf},
                       [call](const at::Tensor& dy) { return lstm_backward(call, dy); });
}

at::Tensor recurrent_concatenation(const at::Tensor& x, const Param& weight, const Param& bias,
                                   OpContext& context) {
  RecurrentCall call = call_of(kernels::Cell::kTanh, x, weight, bias, context);
  run_forward(call, bias.leaf, nullptr);
  const at::Tensor both = call.both;
  call.both = both.detach();
  return with_backward(narrowed(both, x.scalar_type(), context.threads), {x, weight.leaf},
                       [call](const at::Tensor& dy) { return concatenation_backward(call, dy); });
}

}  // namespace by_kernels
}  // namespace furrow::tensor
