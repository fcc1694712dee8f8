#include <ATen/ATen.h>

#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/activation_torch.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/half_rows_torch.h"
#include "furrow/tensor/half_torch.h"
#include "furrow/tensor/kernels/elementwise.h"
#include "furrow/tensor/kernels/gemm.h"
#include "furrow/tensor/operations_torch.h"
#include "furrow/tensor/product_torch.h"
#include "furrow/tensor/tensor_axis_torch.h"

namespace furrow::tensor {

namespace {

// One call, kept from forward to backward.  All tensors are dense and without history.
struct LinearCall {
  kernels::LinearShape shape;
  Activation activation = Activation::kNone;
  at::Tensor x, weight;
  at::Tensor gate;  // what the activation's backward reads: ReLU's output, GELU's slope
  int weight_index = -1, bias_index = -1;
  bool input_gradient = false, wide_input = false;  // wide: the gradient stays float32
  int threads = 1;
  GradientSink* sink = nullptr;
  Cut cut = Cut::kNone;
  TensorAxis* axis = nullptr;  // of several ranks where the layer is cut

  bool sums_output() const { return cut == Cut::kRows || cut == Cut::kRowsToPositions; }
};

void write_to(const at::Tensor& y, Product* product) {
  if (y.scalar_type() == product->a.tensor.scalar_type()) {
    product->c = y;
  } else {
    product->wide_c = y.data_ptr<float>();
  }
}

// The gradient of x weight^T + bias; puts the bias'.
at::Tensor before_activation(const LinearCall& call, const at::Tensor& dy) {
  const bool with_bias = call.bias_index >= 0 && call.sink != nullptr && call.sink->wants(call.bias_index);
  at::Tensor dz = dy, db;
  if (!with_bias && call.activation == Activation::kNone) return dz;
  if (call.activation == Activation::kNone) {
    db = column_sums(dy, call.threads);
  } else {
    if (with_bias) db = at::empty({call.shape.out}, dy.options().dtype(at::kFloat));
    dz = activation_gradient(call.activation, call.gate, dy, with_bias ? db.data_ptr<float>() : nullptr,
                             call.threads);
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

// The sum over the ranks of their parts of the input's gradient.
at::Tensor summed_input_gradient(const LinearCall& call, const at::Tensor& dz) {
  const kernels::LinearShape& s = call.shape;
  const at::Tensor part = at::empty(call.x.sizes(), call.x.options().dtype(at::kFloat));
  Product product{s.rows, s.in, s.out, {dz, s.out}, {call.weight, s.in}};
  product.wide_c = part.data_ptr<float>();
  product.ldc = s.in;
  multiply(product, call.threads);
  const at::Tensor sum =
      call.cut == Cut::kColumns ? call.axis->all_reduce(part) : call.axis->reduce_scatter(part, 1);
  return narrowed(sum, call.x.scalar_type(), call.threads);
}

std::vector<at::Tensor> linear_backward(const LinearCall& call, const at::Tensor& dy) {
  at::Tensor dz = before_activation(call, rounded(dy, call.x.scalar_type(), call.threads));
  if (call.cut == Cut::kRowsToPositions) dz = call.axis->all_gather(dz, 1);
  defer_weight(call, dz);
  if (!call.input_gradient) return {};
  if (call.axis != nullptr && !call.sums_output()) return {summed_input_gradient(call, dz)};
  const kernels::LinearShape& s = call.shape;
  const at::Tensor dx =
      at::empty(call.x.sizes(), call.x.options().dtype(call.wide_input ? at::kFloat : dz.scalar_type()));
  Product product{s.rows, s.in, s.out, {dz, s.out}, {call.weight, s.in}};
  write_to(dx, &product);
  product.ldc = s.in;
  multiply(product, call.threads);
  return {dx};
}

// activation(the sum over the ranks of x weight^T, plus bias).
at::Tensor summed_output(LinearCall& call, const Param& bias, bool recorded) {
  const kernels::LinearShape& s = call.shape;
  const at::ScalarType type = call.x.scalar_type();
  std::vector<int64_t> sizes = call.x.sizes().vec();
  sizes.back() = s.out;
  const at::Tensor part = at::empty(sizes, call.x.options().dtype(at::kFloat));
  Product product{s.rows, s.out, s.in, {call.x, s.in}, {call.weight, 1, s.in}};
  product.wide_c = part.data_ptr<float>();
  product.ldc = s.out;
  multiply(product, call.threads);
  const at::Tensor sum =
      call.cut == Cut::kRows ? call.axis->all_reduce(part) : call.axis->reduce_scatter(part, 1);
  if (bias.defined()) sum.add_(bias.leaf.detach());
  if (call.activation == Activation::kNone) return narrowed(sum, type, call.threads);
  const at::Tensor slope = activate(sum, sum, call.activation, recorded, call.threads);
  if (slope.defined()) call.gate = narrowed(slope, type, call.threads);
  return narrowed(sum, type, call.threads);
}

LinearCall call_of(const at::Tensor& x, const LinearLayer& layer, const OpContext& context) {
  const at::Tensor& weight = layer.weight.leaf;
  FURROW_CHECK(x.dim() >= 2 && is_number(x) && x.size(-1) == weight.size(1),
               "linear reads numbers [..., in]");
  FURROW_CHECK(layer.activation <= Activation::kGeluTanh, "a product applies no such activation");
  LinearCall call;
  call.activation = layer.activation;
  call.wide_input = x.scalar_type() != weight.scalar_type();
  const at::Tensor read = layer.read.defined() ? layer.read : x;
  call.x = rounded(read.detach().contiguous(), weight.scalar_type(), context.threads);
  if (layer.cut != Cut::kNone && shared(context)) {
    call.cut = layer.cut;
    call.axis = context.axis;
    if (call.cut == Cut::kPositionsToColumns) call.x = call.axis->all_gather(call.x, 1);
  }
  call.shape = {call.x.numel() / x.size(-1), weight.size(1), weight.size(0)};
  call.weight = weight.detach();
  call.weight_index = layer.weight.index;
  call.bias_index = layer.bias.index;
  call.input_gradient = x.requires_grad();
  call.threads = context.threads;
  call.sink = context.sink;
  return call;
}

// activation(x weight^T + bias), of what is here.
at::Tensor own_output(LinearCall& call, const LinearLayer& layer, bool recorded) {
  const Param& bias = layer.bias;
  const kernels::LinearShape& s = call.shape;
  std::vector<int64_t> sizes = call.x.sizes().vec();
  sizes.back() = s.out;
  const at::ScalarType type = layer.wide_output ? at::kFloat : call.x.scalar_type();
  const at::Tensor y = at::empty(sizes, call.x.options().dtype(type));
  if (recorded && call.activation >= Activation::kGelu) call.gate = at::empty_like(y);
  Product product{s.rows, s.out, s.in, {call.x, s.in}, {call.weight, 1, s.in}};
  write_to(y, &product);
  product.ldc = s.out;
  if (bias.defined()) product.bias = bias.leaf.detach();
  product.activation = kernel_activation(call.activation);
  product.slope = call.gate;
  multiply(product, call.threads);
  return y;
}

}  // namespace

namespace by_kernels {

at::Tensor linear(const at::Tensor& x, const LinearLayer& layer, OpContext& context) {
  LinearCall call = call_of(x, layer, context);
  const bool recorded = needs_backward({x, layer.weight.leaf});
  const at::Tensor y =
      call.sums_output() ? summed_output(call, layer.bias, recorded) : own_output(call, layer, recorded);
  if (!recorded) return y;
  if (call.activation == Activation::kRelu) call.gate = y.detach();
  return with_backward(y, {x, layer.weight.leaf},
                       [call](const at::Tensor& dy) { return linear_backward(call, dy); });
}

}  // namespace by_kernels
}  // namespace furrow::tensor
