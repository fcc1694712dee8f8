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
#include "furrow/tensor/product_torch.h"

namespace furrow::tensor {
namespace {

// One call, kept from forward to backward.  All tensors are dense and without history; those of the input's
// type multiply as such (product_torch.h), and the steps, which read their own numbers, are float32.
struct RecurrentCall {
  kernels::RecurrentShape shape;
  int64_t in = 0;
  at::ScalarType type = at::kFloat;  // of the input
  Param param;                       // the weight
  at::Tensor weight;                 // with its adapter
  at::Tensor adapted;                // float32: the weight with its adapter, where it has one
  at::Tensor both;                   // [batch, time, in + hidden]: [x_t, h_{t-1}]
  at::Tensor gates;                  // float32: what the kernels keep there
  at::Tensor cell;                   // LSTM's c, float32
  int bias_index = -1;
  bool input_gradient = false;
  int threads = 1;
  GradientSink* sink = nullptr;

  // The sum with an adapter is formed for as long as a call, forward and backward.
  void form_weight() {
    if (param.adapter) adapted = weight_with_adapter(param, threads);
    weight = param.adapter ? narrowed(adapted, type, threads) : param.leaf.detach();
  }
  void forget_weight() { weight = adapted = at::Tensor(); }
  // As the steps read it: a copy for as long as a call, where the layer is of 16 bits.
  at::Tensor wide_weight() const { return adapted.defined() ? adapted : widened(weight, threads); }
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
  call.type = x.scalar_type();
  call.param = weight;
  call.bias_index = bias.index;
  call.input_gradient = x.requires_grad();
  call.threads = context.threads;
  call.sink = context.sink;
  call.form_weight();
  call.gates = at::empty({x.size(0), x.size(1), call.outputs()}, call.weight.options().dtype(at::kFloat));
  return call;
}

// The input projections of all steps in one product, then the steps.  `out` [rows, hidden] may be null.
void run_forward(RecurrentCall& call, const at::Tensor& x, const at::Tensor& bias, float* out) {
  const at::Tensor input = x.detach().contiguous();
  Product projections{call.rows(), call.outputs(), call.in, {input, call.in}, {call.weight, 1, call.width()}};
  projections.wide_c = call.gates.data_ptr<float>();
  projections.ldc = call.outputs();
  projections.bias = bias.detach();
  multiply(projections, call.threads);
  const at::Tensor both = at::empty({x.size(0), x.size(1), call.width()}, call.gates.options());
  both.narrow(2, 0, call.in).copy_(input);
  const at::Tensor wide = call.wide_weight();
  kernels::RecurrentForward args;
  args.shape = call.shape;
  args.weight = wide.const_data_ptr<float>() + call.in;
  args.gates = call.gates.data_ptr<float>();
  args.cell = call.cell.defined() ? call.cell.data_ptr<float>() : nullptr;
  args.out = out;
  args.out_stride = call.shape.hidden;
  args.previous = both.data_ptr<float>() + call.in;
  args.previous_stride = call.width();
  kernels::recurrent_forward(args, call.threads);
  call.both = narrowed(both, call.type, call.threads);
}

// Puts the bias' gradient and defers the weight's, one product over all steps.  `dz`: of the gates, before
// their activations.
void parameter_gradients(const RecurrentCall& call, const at::Tensor& dz) {
  if (call.sink == nullptr) return;
  at::Tensor dbias = at::empty({call.outputs()}, call.gates.options());
  kernels::column_sums(call.rows(), call.outputs(), call.gates.const_data_ptr<float>(),
                       dbias.data_ptr<float>(), call.threads);
  call.sink->put(call.bias_index, dbias);
  if (call.param.adapter) defer_adapter(*call.param.adapter, call.both, dz, *call.sink, call.threads);
  call.sink->defer(call.param.index, [rows = call.rows(), outputs = call.outputs(), width = call.width(), dz,
                                      both = call.both, threads = call.threads](float* out) {
    Product product{outputs, width, rows, {dz, 1, outputs}, {both, width}};
    product.wide_c = out;
    product.ldc = width;
    multiply(product, threads);
  });
}

// dx = (dx +) dz W_x, float32.
std::vector<at::Tensor> input_gradient(const RecurrentCall& call, const at::Tensor& dz, const at::Tensor& dx,
                                       bool accumulate) {
  Product product{call.rows(), call.in, call.outputs(), {dz, call.outputs()}, {call.weight, call.width()}};
  product.wide_c = dx.data_ptr<float>();
  product.ldc = call.in;
  product.accumulate = accumulate;
  multiply(product, call.threads);
  return {narrowed(dx, call.type, call.threads)};
}

kernels::RecurrentBackward backward_of(const RecurrentCall& call, const at::Tensor& wide_weight) {
  kernels::RecurrentBackward args;
  args.shape = call.shape;
  args.weight = wide_weight.const_data_ptr<float>() + call.in;
  args.gates = call.gates.data_ptr<float>();
  return args;
}

std::vector<at::Tensor> lstm_backward(RecurrentCall call, const at::Tensor& gradient) {
  call.form_weight();
  const at::Tensor dy = widened(gradient, call.threads), wide = call.wide_weight();
  kernels::RecurrentBackward args = backward_of(call, wide);
  args.cell = call.cell.const_data_ptr<float>();
  args.dout = dy.const_data_ptr<float>();
  args.dout_stride = call.shape.hidden;
  kernels::recurrent_backward(args, call.threads);
  const at::Tensor dz = narrowed(call.gates, call.type, call.threads);
  parameter_gradients(call, dz);
  if (!call.input_gradient) return {};
  return input_gradient(call, dz, at::empty({call.shape.batch, call.shape.time, call.in}, dy.options()),
                        false);
}

std::vector<at::Tensor> concatenation_backward(RecurrentCall call, const at::Tensor& gradient) {
  call.form_weight();
  const at::Tensor dboth = widened(gradient, call.threads), wide = call.wide_weight();
  kernels::RecurrentBackward args = backward_of(call, wide);
  args.dprevious = dboth.const_data_ptr<float>() + call.in;
  args.dprevious_stride = call.width();
  kernels::recurrent_backward(args, call.threads);
  const at::Tensor dz = narrowed(call.gates, call.type, call.threads);
  parameter_gradients(call, dz);
  if (!call.input_gradient) return {};
  return input_gradient(call, dz, dboth.narrow(2, 0, call.in).clone(at::MemoryFormat::Contiguous), true);
}

}  // namespace

namespace by_kernels {

at::Tensor lstm(const at::Tensor& x, const Param& weight, const Param& bias, OpContext& context) {
  RecurrentCall call = call_of(kernels::Cell::kLstm, x, weight, bias, context);
  at::Tensor h = at::empty({x.size(0), x.size(1), call.shape.hidden}, call.gates.options());
  call.cell = at::empty_like(h);
  run_forward(call, x, bias.leaf, h.data_ptr<float>());
  call.forget_weight();
  return with_backward(narrowed(h, x.scalar_type(), context.threads), {x, weight.leaf},
                       [call](const at::Tensor& dy) { return lstm_backward(call, dy); });
}

at::Tensor recurrent_concatenation(const at::Tensor& x, const Param& weight, const Param& bias,
                                   OpContext& context) {
  RecurrentCall call = call_of(kernels::Cell::kTanh, x, weight, bias, context);
  run_forward(call, x, bias.leaf, nullptr);
  const at::Tensor both = call.both;
  call.both = both.detach();
  call.forget_weight();
  return with_backward(both, {x, weight.leaf},
                       [call](const at::Tensor& dy) { return concatenation_backward(call, dy); });
}

}  // namespace by_kernels
}  // namespace furrow::tensor
