// Linear layers as compositions: weights' gradients go straight into the flat buffer, float32 whatever the
// layer computes in, as are sums over the ranks of a tensor axis.
#include <ATen/ATen.h>

#include <utility>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/composed/activation_torch.h"
#include "furrow/tensor/composition_torch.h"
#include "furrow/tensor/half_torch.h"
#include "furrow/tensor/operations_torch.h"
#include "furrow/tensor/tensor_axis_torch.h"

namespace furrow::tensor::by_composition {
namespace {

// c = a [m, k] b [k, n], float32 whatever they are.  libtorch before 2.8, and every one on the CPU, has a
// product of 16-bit numbers in 16 bits only.
template <class Tensor>
void multiply_wide(Tensor& c, const Tensor& a, const Tensor& b) {
  if (a.scalar_type() == at::kFloat) {
    at::mm_out(c, a, b);
    return;
  }
  if constexpr (requires { at::mm_out(c, a, b, at::kFloat); }) {
    if (a.is_cuda()) {
      at::mm_out(c, a, b, at::kFloat);
      return;
    }
  }
  at::mm_out(c, a.to(at::kFloat), b.to(at::kFloat));
}

// Into float32 memory of their device.
void multiply_into(const at::Tensor& a, const at::Tensor& b, float* out) {
  at::Tensor c = over(out, {a.size(0), b.size(1)}, a.device());
  multiply_wide(c, a, b);
}

// As a fresh tensor, which ranks add to theirs.
at::Tensor wide_product(const at::Tensor& a, const at::Tensor& b) {
  at::Tensor c = at::empty({a.size(0), b.size(1)}, a.options().dtype(at::kFloat));
  multiply_wide(c, a, b);
  return c;
}

// x weight^T + bias, of their type.
at::Tensor product(const at::Tensor& x, const at::Tensor& weight, const Param& bias) {
  return bias.defined() ? at::addmm(bias.leaf.detach(), x, weight.t()) : at::mm(x, weight.t());
}

at::Tensor matrix(const at::Tensor& x) { return x.detach().reshape({-1, x.size(-1)}); }

std::vector<int64_t> with_last(std::vector<int64_t> sizes, int64_t last) {
  sizes.back() = last;
  return sizes;
}

struct LinearCall {
  Activation activation = Activation::kNone;
  at::Tensor x, weight;        // [rows, in], [out, in]
  at::Tensor gate;             // what the activation's backward reads: ReLU's output, GELU's input
  std::vector<int64_t> sizes;  // of x, gathered where it is
  int weight_index = -1, bias_index = -1;
  bool input_gradient = false, wide_input = false;  // wide: the gradient stays float32
  GradientSink* sink = nullptr;
  Cut cut = Cut::kNone;
  TensorAxis* axis = nullptr;  // of several ranks where the layer is cut

  bool sums_output() const { return cut == Cut::kRows || cut == Cut::kRowsToPositions; }
  bool sums_input_gradient() const { return axis != nullptr && !sums_output(); }
};

// Of the gradient [rows, out] of a layer; -1: it has no bias.
void put_bias(GradientSink* sink, int index, const at::Tensor& dz) {
  if (sink != nullptr && index >= 0 && sink->wants(index))
    sink->put(index, at::sum(dz, {0}, false, at::kFloat));
}

std::vector<at::Tensor> linear_backward(const LinearCall& call, const at::Tensor& gradient) {
  at::Tensor dz = activation_backward(matrix(gradient).to(call.x.scalar_type()), call.gate, call.activation);
  put_bias(call.sink, call.bias_index, dz);
  if (call.cut == Cut::kRowsToPositions) dz = matrix(call.axis->all_gather(dz.view(gradient.sizes()), 1));
  if (call.sink != nullptr)
    call.sink->defer(call.weight_index, [dz, x = call.x](float* out) { multiply_into(dz.t(), x, out); });
  if (!call.input_gradient) return {};
  if (call.wide_input) return {wide_product(dz, call.weight).view(call.sizes)};
  if (!call.sums_input_gradient()) return {at::mm(dz, call.weight).view(call.sizes)};
  const at::Tensor part = wide_product(dz, call.weight).view(call.sizes);
  const at::Tensor sum =
      call.cut == Cut::kColumns ? call.axis->all_reduce(part) : call.axis->reduce_scatter(part, 1);
  return {sum.to(gradient.scalar_type())};
}

LinearCall call_of(const at::Tensor& x, const LinearLayer& layer, const OpContext& context) {
  const at::Tensor& weight = layer.weight.leaf;
  FURROW_CHECK(x.dim() >= 2 && is_number(x) && x.size(-1) == weight.size(1),
               "linear reads numbers [..., in]");
  LinearCall call;
  call.activation = layer.activation;
  at::Tensor whole = (layer.read.defined() ? layer.read : x).detach();
  if (layer.cut != Cut::kNone && shared(context)) {
    call.cut = layer.cut;
    call.axis = context.axis;
    if (call.cut == Cut::kPositionsToColumns) whole = call.axis->all_gather(whole, 1);
  }
  call.wide_input = x.scalar_type() != weight.scalar_type();
  call.x = matrix(whole).to(weight.scalar_type());
  call.weight = weight.detach();
  call.sizes = whole.sizes().vec();
  call.weight_index = layer.weight.index;
  call.bias_index = layer.bias.index;
  call.input_gradient = x.requires_grad();
  call.sink = context.sink;
  return call;
}

// The sum over the ranks of x weight^T, plus bias: float32.
at::Tensor summed_output(const LinearCall& call, const Param& bias) {
  const at::Tensor part =
      wide_product(call.x, call.weight.t()).view(with_last(call.sizes, call.weight.size(0)));
  const at::Tensor sum =
      call.cut == Cut::kRows ? call.axis->all_reduce(part) : call.axis->reduce_scatter(part, 1);
  return bias.defined() ? sum.add_(bias.leaf.detach()) : sum;
}

at::Tensor own_output(const LinearCall& call, const LinearLayer& layer) {
  const at::Tensor z =
      layer.wide_output ? wide_product(call.x, call.weight.t()) : product(call.x, call.weight, layer.bias);
  return z.view(with_last(call.sizes, call.weight.size(0)));
}

}  // namespace

at::Tensor linear(const at::Tensor& x, const LinearLayer& layer, OpContext& context) {
  LinearCall call = call_of(x, layer, context);
  const at::ScalarType type = call.x.scalar_type();
  const at::Tensor z = call.sums_output() ? summed_output(call, layer.bias) : own_output(call, layer);
  const at::Tensor y = activated(z, call.activation).to(layer.wide_output ? at::kFloat : type);
  if (call.activation != Activation::kNone && needs_backward({x, layer.weight.leaf}))
    call.gate = matrix(reads_output(call.activation) ? y : z.to(type));
  return with_backward(y, {x, layer.weight.leaf},
                       [call](const at::Tensor& dy) { return linear_backward(call, dy); });
}

namespace {

// Several layers over one input, kept from forward to backward.
struct SideBySide {
  std::vector<at::Tensor> weights;
  std::vector<int> indices, bias_indices;           // -1: no bias
  at::Tensor x;                                     // [rows, in]
  std::vector<int64_t> sizes;                       // of x, gathered where it is
  bool input_gradient = false, wide_input = false;  // wide: the gradient stays float32
  GradientSink* sink = nullptr;
  TensorAxis* axis = nullptr;  // of several ranks: x has been gathered, its gradient is scattered
};

std::vector<at::Tensor> side_by_side_backward(const SideBySide& call, const at::Tensor& gradient) {
  const at::Tensor dy = matrix(gradient);
  at::Tensor dx;
  int64_t begin = 0;
  for (size_t i = 0; i < call.weights.size(); ++i) {
    const at::Tensor part = dy.narrow(1, begin, call.weights[i].size(0));
    begin += part.size(1);
    put_bias(call.sink, call.bias_indices[i], part);
    if (call.sink != nullptr)
      call.sink->defer(call.indices[i], [part, x = call.x](float* out) { multiply_into(part.t(), x, out); });
    if (!call.input_gradient) continue;
    if (call.axis != nullptr || call.wide_input) {
      const at::Tensor wide = wide_product(part, call.weights[i]);
      dx = dx.defined() ? dx.add_(wide) : wide;
    } else {
      dx = dx.defined() ? at::addmm(dx, part, call.weights[i]) : at::mm(part, call.weights[i]);
    }
  }
  if (!call.input_gradient) return {};
  dx = dx.view(call.sizes);
  if (call.axis != nullptr) dx = call.axis->reduce_scatter(dx, 1);
  return {call.wide_input ? dx : dx.to(gradient.scalar_type())};
}

}  // namespace

at::Tensor linear_side_by_side(const at::Tensor& x, const SideBySideLayers& layers, OpContext& context) {
  SideBySide call;
  at::Tensor whole = (layers.read.defined() ? layers.read : x).detach();
  if (layers.cut == Cut::kPositionsToColumns && shared(context)) {
    call.axis = context.axis;
    whole = call.axis->all_gather(whole, 1);
  }
  const at::ScalarType type = layers.weights.front().leaf.scalar_type();
  call.wide_input = x.scalar_type() != type;
  call.x = matrix(whole).to(type);
  call.sizes = whole.sizes().vec();
  call.input_gradient = x.requires_grad();
  call.sink = context.sink;
  std::vector<at::Tensor> parts;
  for (size_t i = 0; i < layers.weights.size(); ++i) {
    const Param &weight = layers.weights[i], bias = layers.biases.empty() ? Param() : layers.biases[i];
    call.weights.push_back(weight.leaf.detach());
    call.indices.push_back(weight.index);
    call.bias_indices.push_back(bias.index);
    parts.push_back(product(call.x, call.weights.back(), bias));
  }
  const at::Tensor y = at::cat(parts, 1);
  return with_backward(y.view(with_last(call.sizes, y.size(1))), {x, layers.weights.front().leaf},
                       [call](const at::Tensor& dy) { return side_by_side_backward(call, dy); });
}

}  // namespace furrow::tensor::by_composition
