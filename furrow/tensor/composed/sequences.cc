// Attention and recurrent layers as compositions.
#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <c10/util/Exception.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/composed/dropout_factors_torch.h"
#include "furrow/tensor/half_torch.h"
#include "furrow/tensor/operations_torch.h"
#include "furrow/tensor/tensor_axis_torch.h"

namespace furrow::tensor::by_composition {
namespace {

// On a device libtorch's fused attention adds gradients in any order unless a setting of the process forbids
// it (which cuDNN's own, train/device.cc, does not say). It does while at least one thread is in such a
// backward, and is then what it was before the first; on the CPU, where there is one order, nothing is set.
class InOneOrder {
 public:
  explicit InOneOrder(bool needed) : needed_(needed) {
    if (!needed_) return;
    const std::lock_guard lock(users().mutex);
    if (users().count++ > 0) return;
    users().before = at::globalContext().deterministicAlgorithms();
    users().filled = at::globalContext().deterministicFillUninitializedMemory();
    at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
    at::globalContext().setDeterministicFillUninitializedMemory(false);  // all that is read is written
  }
  ~InOneOrder() {
    if (!needed_) return;
    const std::lock_guard lock(users().mutex);
    if (--users().count > 0) return;
    at::globalContext().setDeterministicAlgorithms(users().before, /*warn_only=*/false);
    at::globalContext().setDeterministicFillUninitializedMemory(users().filled);
  }
  InOneOrder(const InOneOrder&) = delete;
  InOneOrder& operator=(const InOneOrder&) = delete;

 private:
  struct Users {
    std::mutex mutex;
    int count = 0;
    bool before = false, filled = false;
  };
  static Users& users() {
    static Users all;
    return all;
  }

  bool needed_;
};

// x [batch, heads, time, size], the halves of each row turned by their angles, or back.
at::Tensor rotated(const at::Tensor& x, const at::Tensor& table, bool back = false) {
  const int64_t half = x.size(3) / 2;
  const at::Tensor rows = table.narrow(0, 0, x.size(2)).to(x.device(), at::kFloat, /*non_blocking=*/true);
  const at::Tensor cosine = rows.narrow(1, 0, half);
  const at::Tensor sine = back ? rows.narrow(1, half, half).neg() : rows.narrow(1, half, half);
  const at::Tensor wide = x.to(at::kFloat), a = wide.narrow(3, 0, half), b = wide.narrow(3, half, half);
  return at::cat({a * cosine - b * sine, a * sine + b * cosine}, 3).to(x.scalar_type());
}

// Which keys a query sees, [batch, 1, time, time]; undefined where rows are whole: those up to itself.
at::Tensor visible(const at::Tensor& qkv, const OpContext& context) {
  if (context.positions.empty()) return {};
  const int64_t batch = qkv.size(0), time = qkv.size(1);
  FURROW_CHECK(context.positions.size() == static_cast<size_t>(batch * time), "a position for every token");
  const at::Tensor positions =
      at::tensor(c10::ArrayRef<int64_t>(context.positions.data(), context.positions.size()), at::kLong)
          .view({batch, time})
          .to(qkv.device(), at::kLong, /*non_blocking=*/true);
  const at::Tensor document = positions.eq(0).cumsum(1);
  const at::Tensor same = document.unsqueeze(2).eq(document.unsqueeze(1));
  return same.logical_and(at::ones({time, time}, qkv.options().dtype(at::kBool)).tril()).unsqueeze(1);
}

// Every head `times` over.
at::Tensor repeated(const at::Tensor& x, int64_t times) {
  return x.unsqueeze(2)
      .expand({x.size(0), x.size(1), times, x.size(2), x.size(3)})
      .reshape({x.size(0), x.size(1) * times, x.size(2), x.size(3)});
}

struct Heads {
  at::Tensor q, k, v;  // [batch, heads or kv_heads, time, size]
};

// Views of qkv, of queries and keys rotated copies where there is a table.
Heads split(const at::Tensor& qkv, const AttentionHeads& heads) {
  const int64_t keys = heads.kv_heads > 0 ? heads.kv_heads : heads.heads, all = heads.heads + 2 * keys;
  FURROW_CHECK(qkv.dim() == 3 && is_number(qkv) && heads.heads > 0 && heads.heads % keys == 0 &&
                   qkv.size(2) % all == 0,
               "attention reads numbers [batch, time, (heads + 2 kv_heads) * head_size]");
  const int64_t head_size = qkv.size(2) / all;
  FURROW_CHECK(!heads.rotary.defined() || (heads.rotary.size(0) >= qkv.size(1) &&
                                           heads.rotary.size(1) == head_size && head_size % 2 == 0),
               "a rotary table has a row for every position and an even head_size");
  const at::Tensor each = qkv.view({qkv.size(0), qkv.size(1), all, head_size}).transpose(1, 2);
  at::Tensor qk = each.narrow(1, 0, heads.heads + keys);
  if (heads.rotary.defined()) qk = rotated(qk, heads.rotary);
  return {qk.narrow(1, 0, heads.heads), qk.narrow(1, heads.heads, keys),
          each.narrow(1, heads.heads + keys, keys)};
}

// The gradient of qkv from those of its parts.
at::Tensor joined(const std::vector<at::Tensor>& parts, const AttentionHeads& heads) {
  at::Tensor q = parts[0], k = parts[1];
  if (heads.rotary.defined()) {
    const at::Tensor qk = rotated(at::cat({q, k}, 1), heads.rotary, /*back=*/true);
    q = qk.narrow(1, 0, q.size(1));
    k = qk.narrow(1, q.size(1), k.size(1));
  }
  const at::Tensor all = at::cat({q.transpose(1, 2), k.transpose(1, 2), parts[2].transpose(1, 2)}, 2);
  return all.reshape({all.size(0), all.size(1), all.size(2) * all.size(3)});
}

// With probabilities that masks of ours drop: not fused.
at::Tensor attend_dropped(const Heads& h, const at::Tensor& seen, const at::Tensor& factors) {
  const int64_t time = h.q.size(2);
  const at::Tensor keys =
      seen.defined() ? seen : at::ones({time, time}, h.q.options().dtype(at::kBool)).tril();
  const at::Tensor scores = at::matmul(h.q.to(at::kFloat), h.k.to(at::kFloat).transpose(2, 3)) /
                            std::sqrt(static_cast<double>(h.q.size(3)));
  const at::Tensor kept =
      at::softmax(scores.masked_fill(keys.logical_not(), -std::numeric_limits<float>::infinity()), -1);
  return at::matmul(kept * factors, h.v.to(at::kFloat)).to(h.q.scalar_type());
}

at::Tensor attend(Heads h, const at::Tensor& seen, const AttentionHeads& heads, double p,
                  std::string_view stream, const OpContext& context) {
  const int64_t batch = h.q.size(0), time = h.q.size(2), repeats = heads.heads / h.k.size(1);
  if (repeats > 1) {
    h.k = repeated(h.k, repeats);
    h.v = repeated(h.v, repeats);
  }
  at::Tensor out;
  if (context.training && p > 0) {
    FURROW_CHECK(batch == static_cast<int64_t>(context.sample_ids.size()),
                 "dropout needs a sample id for every row");
    const at::Tensor factors = dropout_factors(p, stream, heads.heads * time * time, context, h.q.device());
    out = attend_dropped(h, seen, factors.view({batch, heads.heads, time, time}));
  } else {
    const std::optional<at::Tensor> mask = seen.defined() ? std::optional(seen) : std::nullopt;
    out = at::scaled_dot_product_attention(h.q, h.k, h.v, mask, 0, /*is_causal=*/!seen.defined());
  }
  return out.transpose(1, 2).reshape({batch, time, heads.heads * h.q.size(3)});
}

}  // namespace

// A graph of its own inside, from the parts of qkv on, whose gradients are put together once: its backward
// runs in one order.
at::Tensor causal_attention(const at::Tensor& qkv, const AttentionHeads& heads, double dropout_p,
                            std::string_view stream, OpContext& context) {
  const at::Tensor own = qkv.detach().contiguous(), seen = visible(own, context);
  Heads h = split(own, heads);
  if (!needs_backward({qkv})) return attend(std::move(h), seen, heads, dropout_p, stream, context);
  const std::vector<at::Tensor> parts{h.q.detach().requires_grad_(true), h.k.detach().requires_grad_(true),
                                      h.v.detach().requires_grad_(true)};
  const at::Tensor out = attend({parts[0], parts[1], parts[2]}, seen, heads, dropout_p, stream, context);
  const bool fused_on_device =
      !own.is_cpu() && at::globalContext().deterministicCuDNN() && !(context.training && dropout_p > 0);
  return with_backward(out.detach(), {qkv}, [parts, out, heads, fused_on_device](const at::Tensor& dy) {
    const InOneOrder in_one_order(fused_on_device);
    return std::vector{joined(torch::autograd::grad({out}, parts, {dy}), heads)};
  });
}

namespace {

// libtorch would rather have the weights of its own layers' buffers, and says so every time.
class NoWarning final : public c10::WarningHandler {
 public:
  NoWarning() : guard_(this) {}
  void process(const c10::Warning& /*warning*/) override {}

 private:
  c10::WarningUtils::WarningHandlerGuard guard_;
};

// A recurrent layer in float32, with a graph of its own inside: libtorch's layers have weights over x and
// over h and two biases, ours one of each over [x_t, h_{t-1}].
struct RecurrentCall {
  at::Tensor x, weight, bias;              // the weight with its adapter
  std::shared_ptr<const Adapter> adapter;  // null: none
  int weight_index = -1, bias_index = -1;
  bool input_gradient = false;
  GradientSink* sink = nullptr;

  std::vector<at::Tensor> parts() const {
    const int64_t in = x.size(-1);
    return {weight.narrow(1, 0, in).contiguous(), weight.narrow(1, in, weight.size(1) - in).contiguous(),
            bias, at::zeros_like(bias)};
  }
  at::Tensor start() const { return at::zeros({1, x.size(0), weight.size(1) - x.size(-1)}, x.options()); }
};

at::Tensor wide_copy(const at::Tensor& x) { return x.detach().to(at::kFloat, false, /*copy=*/true); }

at::Tensor weight_of(const Param& weight) {
  const at::Tensor own = wide_copy(weight.leaf);
  if (!weight.adapter) return own;
  const Adapter& adapter = *weight.adapter;
  return own.addmm_(wide_copy(adapter.b.leaf), wide_copy(adapter.a.leaf), 1, adapter.scale);
}

// Of W + scale * B A comes `gradient`.
void put_adapter(const Adapter& adapter, const at::Tensor& gradient, GradientSink& sink) {
  sink.put(adapter.a.index, wide_copy(adapter.b.leaf).t().mm(gradient) * adapter.scale);
  sink.put(adapter.b.index, gradient.mm(wide_copy(adapter.a.leaf).t()) * adapter.scale);
}

std::vector<at::Tensor> recurrent_backward(const RecurrentCall& call, const at::Tensor& out,
                                           const at::Tensor& dy) {
  std::vector<at::Tensor> wanted{call.weight, call.bias};
  if (call.input_gradient) wanted.push_back(call.x);
  const std::vector<at::Tensor> gradients = torch::autograd::grad({out}, wanted, {dy.to(at::kFloat)});
  if (call.sink != nullptr) {
    call.sink->put(call.weight_index, gradients[0]);
    call.sink->put(call.bias_index, gradients[1]);
    if (call.adapter) put_adapter(*call.adapter, gradients[0], *call.sink);
  }
  if (!call.input_gradient) return {};
  return {gradients[2].to(dy.scalar_type())};
}

// `layer` gives the output for a call, float32.
template <class Layer>
at::Tensor recurrent(const at::Tensor& x, const Param& weight, const Param& bias, const OpContext& context,
                     const Layer& layer) {
  FURROW_CHECK(x.dim() == 3 && is_number(x) && weight.leaf.size(1) > x.size(-1),
               "a recurrent layer reads numbers [batch, time, in]");
  const bool recorded = needs_backward({x, weight.leaf});
  RecurrentCall call;
  call.weight_index = weight.index;
  call.bias_index = bias.index;
  call.input_gradient = x.requires_grad();
  call.sink = context.sink;
  call.adapter = weight.adapter;
  call.x = wide_copy(x).requires_grad_(recorded && call.input_gradient);
  call.weight = weight_of(weight).requires_grad_(recorded);
  call.bias = wide_copy(bias.leaf).requires_grad_(recorded);
  const NoWarning silent;
  const at::Tensor out = layer(call);
  return with_backward(out.detach().to(x.scalar_type()), {x, weight.leaf},
                       [call, out](const at::Tensor& dy) { return recurrent_backward(call, out, dy); });
}

}  // namespace

at::Tensor lstm(const at::Tensor& x, const Param& weight, const Param& bias, OpContext& context) {
  return recurrent(x, weight, bias, context, [&](const RecurrentCall& call) {
    const at::Tensor start = call.start();
    return std::get<0>(at::lstm(call.x, {start, start}, call.parts(), /*has_biases=*/true, 1, 0,
                                /*train=*/call.weight.requires_grad(), /*bidirectional=*/false,
                                /*batch_first=*/true));
  });
}

at::Tensor recurrent_concatenation(const at::Tensor& x, const Param& weight, const Param& bias,
                                   OpContext& context) {
  return recurrent(x, weight, bias, context, [&](const RecurrentCall& call) {
    const at::Tensor start = call.start();
    const at::Tensor h = std::get<0>(at::rnn_tanh(call.x, start, call.parts(), /*has_biases=*/true, 1, 0,
                                                  /*train=*/call.weight.requires_grad(),
                                                  /*bidirectional=*/false, /*batch_first=*/true));
    return at::cat({call.x, at::cat({start.transpose(0, 1), h.narrow(1, 0, h.size(1) - 1)}, 1)}, 2);
  });
}

}  // namespace furrow::tensor::by_composition
