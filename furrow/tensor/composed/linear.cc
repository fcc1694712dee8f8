// Linear layers and embeddings as compositions: weights' gradients go straight into the flat buffer, float32
// whatever the layer computes in.
#include <ATen/ATen.h>

#include <utility>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/composition_torch.h"
#include "furrow/tensor/embedding_torch.h"
#include "furrow/tensor/half_torch.h"
#include "furrow/tensor/operations_torch.h"
#include "furrow/tensor/tensor_axis_torch.h"

namespace furrow::tensor::by_composition {
namespace {

// A product of 16-bit numbers in float32.  libtorch before 2.8, and every one on the CPU, only has one of
// float32.
template <class Tensor>
void multiply_halves(Tensor& c, const Tensor& a, const Tensor& b) {
  if constexpr (requires { at::mm_out(c, a, b, at::kFloat); }) {
    if (a.is_cuda()) {
      at::mm_out(c, a, b, at::kFloat);
      return;
    }
  }
  at::mm_out(c, a.to(at::kFloat), b.to(at::kFloat));
}

// a [m, k] b [k, n] into float32 memory of their device.
void multiply_into(const at::Tensor& a, const at::Tensor& b, float* out) {
  at::Tensor c = over(out, {a.size(0), b.size(1)}, a.device());
  if (a.scalar_type() == at::kFloat) {
    at::mm_out(c, a, b);
  } else {
    multiply_halves(c, a, b);
  }
}

at::Tensor matrix(const at::Tensor& x) { return x.detach().reshape({-1, x.size(-1)}); }

struct LinearCall {
  Activation activation = Activation::kNone;
  at::Tensor x, weight;  // [rows, in], [out, in]
  at::Tensor gate;       // what the activation's backward reads: ReLU's output, GELU's input
  std::vector<int64_t> sizes;
  int weight_index = -1, bias_index = -1;
  bool input_gradient = false;
  GradientSink* sink = nullptr;
};

std::string_view approximation(Activation activation) {
  return activation == Activation::kGeluTanh ? "tanh" : "none";
}

at::Tensor activated(const at::Tensor& z, Activation activation) {
  switch (activation) {
    case Activation::kNone:
      return z;
    case Activation::kRelu:
      return at::relu(z);
    default:
      return at::gelu(z, approximation(activation));
  }
}

at::Tensor activation_backward(const LinearCall& call, const at::Tensor& dy) {
  switch (call.activation) {
    case Activation::kNone:
      return dy;
    case Activation::kRelu:
      return at::threshold_backward(dy, call.gate, 0);
    default:
      return at::gelu_backward(dy, call.gate, approximation(call.activation));
  }
}

std::vector<at::Tensor> linear_backward(const LinearCall& call, const at::Tensor& gradient) {
  const at::Tensor dz = activation_backward(call, matrix(gradient));
  if (call.sink != nullptr) {
    if (call.bias_index >= 0 && call.sink->wants(call.bias_index))
      call.sink->put(call.bias_index, at::sum(dz, {0}, false, at::kFloat));
    call.sink->defer(call.weight_index, [dz, x = call.x](float* out) { multiply_into(dz.t(), x, out); });
  }
  if (!call.input_gradient) return {};
  return {at::mm(dz, call.weight).view(call.sizes)};
}

}  // namespace

at::Tensor linear(const at::Tensor& x, const LinearLayer& layer, OpContext& context) {
  FURROW_CHECK(layer.cut == Cut::kNone || !shared(context), "a cut layer is of the CPU");
  const at::Tensor& weight = layer.weight.leaf;
  FURROW_CHECK(x.dim() >= 2 && is_number(x) && x.size(-1) == weight.size(1),
               "linear reads numbers [..., in]");
  LinearCall call;
  call.activation = layer.activation;
  call.x = matrix(x);
  call.weight = weight.detach();
  call.sizes = x.sizes().vec();
  call.weight_index = layer.weight.index;
  call.bias_index = layer.bias.index;
  call.input_gradient = x.requires_grad();
  call.sink = context.sink;
  const at::Tensor z = layer.bias.defined() ? at::addmm(layer.bias.leaf.detach(), call.x, call.weight.t())
                                            : at::mm(call.x, call.weight.t());
  std::vector<int64_t> sizes = call.sizes;
  sizes.back() = weight.size(0);
  const at::Tensor y = activated(z, call.activation).view(sizes);
  if (call.activation != Activation::kNone && needs_backward({x, weight}))
    call.gate = call.activation == Activation::kRelu ? matrix(y) : z;
  return with_backward(y, {x, weight}, [call](const at::Tensor& dy) { return linear_backward(call, dy); });
}

at::Tensor linear_side_by_side(const at::Tensor& x, std::span<const Param> weights, OpContext& context,
                               Cut cut) {
  FURROW_CHECK(cut == Cut::kNone || !shared(context), "a cut layer is of the CPU");
  FURROW_CHECK(x.dim() >= 2 && is_number(x) && !weights.empty(),
               "linear_side_by_side reads numbers [..., in]");
  struct Call {
    std::vector<at::Tensor> weights;
    std::vector<int> indices;
    at::Tensor x;
    std::vector<int64_t> sizes;
    bool input_gradient;
    GradientSink* sink;
  } call{{}, {}, matrix(x), x.sizes().vec(), x.requires_grad(), context.sink};
  for (const Param& weight : weights) {
    call.weights.push_back(weight.leaf.detach());
    call.indices.push_back(weight.index);
  }
  std::vector<at::Tensor> parts;
  for (const at::Tensor& weight : call.weights) parts.push_back(at::mm(call.x, weight.t()));
  std::vector<int64_t> sizes = call.sizes;
  const at::Tensor y = at::cat(parts, 1);
  sizes.back() = y.size(1);
  return with_backward(y.view(sizes), {x, weights.front().leaf}, [call](const at::Tensor& gradient) {
    const at::Tensor dy = matrix(gradient);
    at::Tensor dx;
    int64_t begin = 0;
    for (size_t i = 0; i < call.weights.size(); ++i) {
      const at::Tensor part = dy.narrow(1, begin, call.weights[i].size(0));
      begin += part.size(1);
      if (call.sink != nullptr)
        call.sink->defer(call.indices[i],
                         [part, x = call.x](float* out) { multiply_into(part.t(), x, out); });
      if (call.input_gradient)
        dx = dx.defined() ? at::addmm(dx, part, call.weights[i]) : at::mm(part, call.weights[i]);
    }
    if (!call.input_gradient) return std::vector<at::Tensor>{};
    return std::vector{dx.view(call.sizes)};
  });
}

namespace {

void defer_table(GradientSink* sink, const Param& table, const at::Tensor& ids, const at::Tensor& dy) {
  sink->defer(table.index, [ids, dy, rows = table.leaf.size(0)](float* out) {
    const at::Tensor wide = widened(dy, 1);
    over(out, {rows, wide.size(-1)}, wide.device())
        .copy_(
            at::embedding_dense_backward(wide, ids, rows, /*padding_idx=*/-1, /*scale_grad_by_freq=*/false));
  });
}

void defer_rows(GradientSink* sink, const Param& table, const at::Tensor& dy) {
  sink->defer(table.index, [dy, rows = table.leaf.size(0)](float* out) {
    at::Tensor all = over(out, {rows, dy.size(-1)}, dy.device());
    all.narrow(0, 0, dy.size(1)).copy_(at::sum(dy, {0}, false, at::kFloat));
    all.narrow(0, dy.size(1), rows - dy.size(1)).zero_();
  });
}

}  // namespace

// The ids come from the host, where they are checked: a device would only end the process.
at::Tensor embedding(const at::Tensor& ids, const Param& tokens, const Param& positions, OpContext& context) {
  check_tables(ids, positions, context);
  const at::Device device = tokens.leaf.device();
  const at::Tensor dense = ids.contiguous();
  check_ids(dense, tokens.leaf.size(0));
  const at::Tensor here = dense.to(device, at::kLong, /*non_blocking=*/true);
  at::Tensor y = at::embedding(tokens.leaf.detach(), here), places;
  if (positions.defined() && context.positions.empty()) {
    y.add_(positions.leaf.detach().narrow(0, 0, ids.size(1)));
  } else if (positions.defined()) {
    places = position_ids(dense, context).to(device, at::kLong, /*non_blocking=*/true);
    y.add_(at::embedding(positions.leaf.detach(), places));
  }
  return with_backward(y, {tokens.leaf}, [=, sink = context.sink](const at::Tensor& dy) {
    if (sink == nullptr) return std::vector<at::Tensor>{};
    defer_table(sink, tokens, here, dy);
    if (places.defined()) {
      defer_table(sink, positions, places, dy);
    } else if (positions.defined()) {
      defer_rows(sink, positions, dy);
    }
    return std::vector<at::Tensor>{};
  });
}

at::Tensor embedding_cut(const at::Tensor& ids, const Param& tokens, const Param& positions,
                         int64_t /*vocabulary*/, OpContext& context) {
  FURROW_CHECK(!shared(context), "a cut table is of the CPU");
  return by_composition::embedding(ids, tokens, positions, context);
}

}  // namespace furrow::tensor::by_composition
