#include "furrow/tensor/kernels/recurrent.h"

#include <ATen/ATen.h>

#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/adapter_torch.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/half_rows_torch.h"
#include "furrow/tensor/half_torch.h"
#include "furrow/tensor/operations_torch.h"
#include "furrow/tensor/product_torch.h"

namespace furrow::tensor {
namespace {

// One call, kept from forward to backward.  All tensors are dense, without history and of the input's type.
struct RecurrentCall {
  kernels::RecurrentShape shape;
  int64_t in = 0;
  at::ScalarType type = at::kFloat;  // of the input
  Param param;                       // the weight
  at::Tensor weight;                 // with its adapter, while a call runs
  at::Tensor both;                   // [batch, time, in + hidden]: [x_t, h_{t-1}]
  at::Tensor gates;                  // what the kernels keep there
  at::Tensor cell;                   // LSTM's c
  int bias_index = -1;
  bool input_gradient = false;
  int threads = 1;
  GradientSink* sink = nullptr;

  // The sum with an adapter is formed for as long as a call, forward and backward.
  void form_weight() {
    weight = param.adapter ? weight_with_adapter(param, type, threads) : param.leaf.detach();
  }
  void forget_weight() { weight = at::Tensor(); }
  int64_t rows() const { return shape.batch * shape.time; }
  int64_t width() const { return in + shape.hidden; }
  int64_t outputs() const { return shape.parts() * shape.hidden; }
  at::Tensor sequence(int64_t columns) const {
    return at::empty({shape.batch, shape.time, columns}, weight.options());
  }
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
  call.type = x.scalar_type();
  call.param = weight;
  call.bias_index = bias.index;
  call.input_gradient = x.requires_grad();
  call.threads = context.threads;
  call.sink = context.sink;
  call.form_weight();
  call.gates = call.sequence(call.outputs());
  call.both = call.sequence(call.width());
  return call;
}

// The input projections of all steps in one product, then the steps.  `out` [batch, time, hidden] may be
// undefined.
void run_forward(const RecurrentCall& call, const at::Tensor& x, const at::Tensor& bias,
                 const at::Tensor& out) {
  const at::Tensor input = x.detach().contiguous();
  Product projections{call.rows(), call.outputs(), call.in, {input, call.in}, {call.weight, 1, call.width()}};
  projections.c = call.gates;
  projections.ldc = call.outputs();
  projections.bias = bias.detach();
  multiply(projections, call.threads);
  call.both.narrow(2, 0, call.in).copy_(input);
  by_type(call.type, [&]<class T>(T) {
    kernels::RecurrentForward<T> args;
    args.shape = call.shape;
    args.weight = numbers<T>(call.weight) + call.in;
    args.gates = mutable_numbers<T>(call.gates);
    args.cell = mutable_numbers<T>(call.cell);
    args.out = mutable_numbers<T>(out);
    args.out_stride = call.shape.hidden;
    args.previous = mutable_numbers<T>(call.both) + call.in;
    args.previous_stride = call.width();
    kernels::recurrent_forward(args, call.threads);
  });
}

// From the gradient of h (`dout`) or of the concatenation (`dboth`) to that of the gates before their
// activations, which it leaves in call.gates.
void run_backward(const RecurrentCall& call, const at::Tensor& dout, const at::Tensor& dboth) {
  by_type(call.type, [&]<class T>(T) {
    kernels::RecurrentBackward<T> args;
    args.shape = call.shape;
    args.weight = numbers<T>(call.weight) + call.in;
    args.gates = mutable_numbers<T>(call.gates);
    args.cell = numbers<T>(call.cell);
    args.dout = numbers<T>(dout);
    args.dout_stride = call.shape.hidden;
    args.dprevious = dboth.defined() ? numbers<T>(dboth) + call.in : nullptr;
    args.dprevious_stride = call.width();
    kernels::recurrent_backward(args, call.threads);
  });
}

// Puts the bias' gradient and defers the weight's, one product over all steps.
void parameter_gradients(const RecurrentCall& call) {
  if (call.sink == nullptr) return;
  const at::Tensor& dz = call.gates;
  call.sink->put(call.bias_index, column_sums(dz, call.threads));
  if (call.param.adapter) defer_adapter(*call.param.adapter, call.both, dz, *call.sink, call.threads);
  call.sink->defer(call.param.index, [rows = call.rows(), outputs = call.outputs(), width = call.width(), dz,
                                      both = call.both, threads = call.threads](float* out) {
    Product product{outputs, width, rows, {dz, 1, outputs}, {both, width}};
    product.wide_c = out;
    product.ldc = width;
    multiply(product, threads);
  });
}

// dz W_x, the gradient of the input by way of the gates: into `c`, or added to the float32 `sum`.
void input_gradient(const RecurrentCall& call, const at::Tensor& c, const at::Tensor& sum) {
  Product product{
      call.rows(), call.in, call.outputs(), {call.gates, call.outputs()}, {call.weight, call.width()}};
  product.c = c;
  product.wide_c = mutable_numbers<float>(sum);
  product.accumulate = sum.defined();
  product.ldc = call.in;
  multiply(product, call.threads);
}

std::vector<at::Tensor> lstm_backward(RecurrentCall call, const at::Tensor& gradient) {
  call.form_weight();
  run_backward(call, gradient.detach().contiguous(), {});
  parameter_gradients(call);
  if (!call.input_gradient) return {};
  const at::Tensor dx = call.sequence(call.in);
  input_gradient(call, dx, {});
  return {dx};
}

std::vector<at::Tensor> concatenation_backward(RecurrentCall call, const at::Tensor& gradient) {
  call.form_weight();
  const at::Tensor dboth = gradient.detach().contiguous();
  run_backward(call, {}, dboth);
  parameter_gradients(call);
  if (!call.input_gradient) return {};
  const at::Tensor dx = dboth.narrow(2, 0, call.in).to(at::kFloat, false, true, at::MemoryFormat::Contiguous);
  input_gradient(call, {}, dx);
  return {narrowed(dx, call.type, call.threads)};
}

}  // namespace

namespace by_kernels {

at::Tensor lstm(const at::Tensor& x, const Param& weight, const Param& bias, OpContext& context) {
  RecurrentCall call = call_of(kernels::Cell::kLstm, x, weight, bias, context);
  const at::Tensor h = call.sequence(call.shape.hidden);
  call.cell = call.sequence(call.shape.hidden);
  run_forward(call, x, bias.leaf, h);
  call.forget_weight();
  return with_backward(h, {x, weight.leaf}, [call](const at::Tensor& dy) { return lstm_backward(call, dy); });
}

at::Tensor recurrent_concatenation(const at::Tensor& x, const Param& weight, const Param& bias,
                                   OpContext& context) {
  RecurrentCall call = call_of(kernels::Cell::kTanh, x, weight, bias, context);
  run_forward(call, x, bias.leaf, {});
  const at::Tensor both = call.both;
  call.both = both.detach();
  call.forget_weight();
  return with_backward(both, {x, weight.leaf},
                       [call](const at::Tensor& dy) { return concatenation_backward(call, dy); });
}

}  // namespace by_kernels
}  // namespace furrow::tensor
