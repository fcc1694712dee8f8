// A block of rows goes through all of it, norm, layers, activation and the sum, and back, before the next one
// does: what lies between is read while a second-level cache has it, and gradients that nobody keeps are
// never written.  Every number is what the operations one after the other would make of it.
#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/activation_torch.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/composition_torch.h"
#include "furrow/tensor/feed_forward_torch.h"
#include "furrow/tensor/kernels/blocks.h"
#include "furrow/tensor/kernels/copy.h"
#include "furrow/tensor/kernels/elementwise.h"
#include "furrow/tensor/kernels/gemm.h"
#include "furrow/tensor/kernels/layer_norm.h"
#include "furrow/tensor/kernels/parallel.h"
#include "furrow/tensor/kernels/rms_norm.h"
#include "furrow/tensor/kernels/scratch.h"
#include "furrow/tensor/product_torch.h"
#include "furrow/tensor/tensor_axis_torch.h"

namespace furrow::tensor {
namespace {

using kernels::kChainRows;
using kernels::MatrixView;

constexpr int64_t kBlockRows = 128;
constexpr int64_t kTurnedFloats = 256 << 10;  // of a weight that is turned once for all blocks of rows

struct Layer {
  at::Tensor weight, bias;  // [out, in], [out] or undefined
  int index = -1, bias_index = -1;
  int64_t out = 0, begin = 0;  // of its columns in the result
};

// One call, kept from forward to backward.  All tensors are dense, float32 and without history.
struct Call {
  int64_t rows = 0, width = 0, inner = 0, hidden = 0;  // inner: columns of `in`
  bool centred = false;
  float eps = 0;
  Layer norm;  // its weight and bias
  std::vector<Layer> in;
  Layer out;
  kernels::Activation activation = kernels::Activation::kNone;  // of one layer; two are a gate and its unit
  at::Tensor x, mean, scale;                                    // scale: 1 / deviation, of each row
  at::Tensor normal, both, h, slope;                            // both: of gate and unit
  int threads = 1;
  GradientSink* sink = nullptr;

  bool gated() const { return in.size() > 1; }
  bool wants(const Layer& layer) const {
    return layer.bias_index >= 0 && sink != nullptr && sink->wants(layer.bias_index);
  }
};

float* row_of(const at::Tensor& x, int64_t row) {
  return x.defined() ? x.data_ptr<float>() + row * (x.dim() > 1 ? x.size(-1) : 1) : nullptr;
}

// Blocks of rows, whole chains of sums, on several threads.
template <class Work>
void for_blocks(const Call& call, const Work& work) {
  const int64_t chains = (call.rows + kChainRows - 1) / kChainRows;
  const int64_t most = call.inner <= 4096 ? kBlockRows / kChainRows : 1;
  const int64_t each = std::clamp<int64_t>(chains / (4 * call.threads), 1, most);
  const int team = kernels::team_for(call.rows * call.width * call.inner, 1 << 19, call.threads);
  kernels::parallel_for(team, (chains + each - 1) / each, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t row = b * each * kChainRows;
      work(row, std::min(each * kChainRows, call.rows - row));
    }
  });
}

// rows [begin, begin + count) of a result = a b, with what is done to it.
struct Rows {
  int64_t begin, count;
};
kernels::Gemm product(Rows rows, int64_t columns, int64_t depth, const float* a, MatrixView b, float* c,
                      int64_t ldc) {
  return {.m = rows.count, .n = columns, .k = depth, .a = {a, depth, 1}, .b = b, .c = c, .ldc = ldc};
}

void normalise(const Call& call, Rows rows, int threads) {
  const float *x = row_of(call.x, rows.begin), *gamma = row_of(call.norm.weight, 0);
  float *y = row_of(call.normal, rows.begin), *scale = row_of(call.scale, rows.begin);
  if (!call.centred) {
    kernels::rms_norm_forward({rows.count, call.width, x, gamma, call.eps, y, scale}, threads);
    return;
  }
  kernels::LayerNormForward args;
  args.rows = rows.count;
  args.columns = call.width;
  args.x = x;
  args.gamma = gamma;
  args.beta = row_of(call.norm.bias, 0);
  args.eps = call.eps;
  args.y = y;
  args.mean = row_of(call.mean, rows.begin);
  args.rstd = scale;
  kernels::layer_norm_forward(args, threads);
}

// Of `turned`, out's weight with its rows across, or of the weight as it lies where that is null.
void forward_rows(const Call& call, Rows rows, const float* turned, const at::Tensor& y, int threads) {
  normalise(call, rows, threads);
  const at::Tensor& made = call.gated() ? call.both : call.h;
  for (const Layer& layer : call.in) {
    kernels::Gemm in =
        product(rows, layer.out, call.width, row_of(call.normal, rows.begin),
                {row_of(layer.weight, 0), 1, call.width}, row_of(made, rows.begin) + layer.begin, call.inner);
    in.epilogue = {.bias = row_of(layer.bias, 0), .activation = call.activation};
    if (call.slope.defined()) in.epilogue.slope = row_of(call.slope, rows.begin);
    kernels::gemm(in, threads);
  }
  const float* h = row_of(call.h, rows.begin);
  if (call.gated())
    kernels::swiglu_forward(rows.count, call.hidden, row_of(call.both, rows.begin),
                            row_of(call.h, rows.begin), threads);
  const MatrixView weight = turned != nullptr ? MatrixView{turned, call.width, 1}
                                              : MatrixView{row_of(call.out.weight, 0), 1, call.hidden};
  float* const result = row_of(y, rows.begin);
  kernels::Gemm out = product(rows, call.width, call.hidden, h, weight, result, call.width);
  out.epilogue.bias = row_of(call.out.bias, 0);
  kernels::gemm(out, threads);
  kernels::add(rows.count * call.width, row_of(call.x, rows.begin), result, result, threads);
}

// Products whose right operand lies along k copy it, each block of rows anew.
void forward(const Call& call, const at::Tensor& y) {
  if (call.width * call.inner > kTurnedFloats)
    return forward_rows(call, {0, call.rows}, nullptr, y, call.threads);
  kernels::ScratchScope scratch;
  float* const turned = scratch.floats(call.width * call.hidden);
  kernels::transpose(call.width, call.hidden, row_of(call.out.weight, 0), turned);
  for_blocks(call, [&](int64_t begin, int64_t count) { forward_rows(call, {begin, count}, turned, y, 1); });
}

// The columns of all rows added up: each chain's sum in a row of its own, then the chains in order.
class ColumnSums {
 public:
  ColumnSums(const Call& call, int64_t columns, kernels::ScratchScope& scratch)
      : chains_((call.rows + kChainRows - 1) / kChainRows),
        columns_(columns),
        sums_(scratch.floats(chains_ * columns)) {}
  float* of(int64_t row) const { return sums_ + row / kChainRows * columns_; }
  at::Tensor all() const {
    const at::Tensor total = at::zeros({columns_}, at::kFloat);
    float* const to = total.data_ptr<float>();
    for (int64_t c = 0; c < chains_; ++c) {
      for (int64_t j = 0; j < columns_; ++j) to[j] += sums_[c * columns_ + j];
    }
    return total;
  }

 private:
  int64_t chains_, columns_;
  float* sums_;
};

struct Gradients {
  at::Tensor dy, dz, dx;  // dz: of the columns of `in`
  ColumnSums gamma, beta, in_bias, out_bias;
  Gradients(const Call& call, const at::Tensor& dy, kernels::ScratchScope& scratch)
      : dy(dy),
        dz(at::empty({call.rows, call.inner}, dy.options())),
        dx(at::empty_like(dy)),
        gamma(call, call.width, scratch),
        beta(call, call.norm.bias.defined() ? call.width : 0, scratch),
        in_bias(call, call.wants(call.in.front()) ? call.inner : 0, scratch),
        out_bias(call, call.wants(call.out) ? call.width : 0, scratch) {}
};

// fn(rows) for each chain of sums among them.
template <class Fn>
void for_chains(Rows rows, const Fn& fn) {
  for (int64_t row = 0; row < rows.count; row += kChainRows)
    fn(Rows{rows.begin + row, std::min(kChainRows, rows.count - row)});
}

// dz of rows whose dh is in scratch.
void activation_backward(const Call& call, Rows rows, const float* dh, const Gradients& gradients) {
  if (call.gated()) {
    kernels::swiglu_backward(rows.count, call.hidden, row_of(call.both, rows.begin), dh,
                             row_of(gradients.dz, rows.begin), 1);
    return;
  }
  for_chains(rows, [&](Rows chain) {
    kernels::ActivationBackward args;
    args.rows = chain.count;
    args.columns = call.hidden;
    args.activation = call.activation;
    args.dy = dh + (chain.begin - rows.begin) * call.hidden;
    args.slope = row_of(call.slope, chain.begin);
    args.dz = row_of(gradients.dz, chain.begin);
    args.db = call.wants(call.in.front()) ? gradients.in_bias.of(chain.begin) : nullptr;
    kernels::activation_backward(args, 1);
  });
}

// dx of rows behind whose norm the gradient is dn, with that which comes past all of it.
void norm_backward(const Call& call, Rows chain, const float* dn, const Gradients& gradients) {
  const float *x = row_of(call.x, chain.begin), *gamma = row_of(call.norm.weight, 0),
              *scale = row_of(call.scale, chain.begin), *past = row_of(gradients.dy, chain.begin);
  float *dx = row_of(gradients.dx, chain.begin), *dgamma = gradients.gamma.of(chain.begin);
  if (!call.centred) {
    kernels::rms_norm_backward({chain.count, call.width, x, gamma, scale, dn, past, dx, dgamma}, 1);
    return;
  }
  float* const dbeta = call.norm.bias.defined() ? gradients.beta.of(chain.begin) : nullptr;
  kernels::layer_norm_backward(
      {chain.count, call.width, x, gamma, row_of(call.mean, chain.begin), scale, dn, past, dx, dgamma, dbeta},
      1);
}

void backward_rows(const Call& call, Rows rows, const Gradients& gradients) {
  kernels::ScratchScope scratch;
  float* const dh = scratch.floats(rows.count * call.hidden);
  float* const dn = scratch.floats(rows.count * call.width);
  const float* const dy = row_of(gradients.dy, rows.begin);
  kernels::gemm(product(rows, call.hidden, call.width, dy, {row_of(call.out.weight, 0), call.hidden, 1}, dh,
                        call.hidden),
                1);
  activation_backward(call, rows, dh, gradients);
  for (const Layer& layer : call.in) {
    kernels::Gemm in = product(rows, call.width, layer.out, nullptr, {row_of(layer.weight, 0), call.width, 1},
                               dn, call.width);
    in.a = {row_of(gradients.dz, rows.begin) + layer.begin, call.inner, 1};
    in.accumulate = layer.begin > 0;
    kernels::gemm(in, 1);
  }
  for_chains(rows, [&](Rows chain) {
    if (call.wants(call.out))
      kernels::column_sums(chain.count, call.width, row_of(gradients.dy, chain.begin),
                           gradients.out_bias.of(chain.begin), 1);
    norm_backward(call, chain, dn + (chain.begin - rows.begin) * call.width, gradients);
  });
}

// dW = dz^T x: dz's columns from `begin` on.
void defer_weight(const Call& call, const Layer& layer, const at::Tensor& dz, const at::Tensor& x) {
  call.sink->defer(layer.index, [rows = call.rows, out_size = layer.out, begin = layer.begin, dz, x,
                                 threads = call.threads](float* out) {
    Product product{out_size, x.size(-1), rows, {dz, 1, dz.size(-1), begin}, {x, x.size(-1)}};
    product.wide_c = out;
    product.ldc = x.size(-1);
    multiply(product, threads);
  });
}

std::vector<at::Tensor> backward(const Call& call, const at::Tensor& dy) {
  kernels::ScratchScope scratch;
  const Gradients gradients(call, dy, scratch);
  for_blocks(call, [&](int64_t begin, int64_t count) { backward_rows(call, {begin, count}, gradients); });
  if (call.sink == nullptr) return {gradients.dx};
  call.sink->put(call.norm.index, gradients.gamma.all());
  if (call.norm.bias.defined()) call.sink->put(call.norm.bias_index, gradients.beta.all());
  if (call.wants(call.in.front())) call.sink->put(call.in.front().bias_index, gradients.in_bias.all());
  if (call.wants(call.out)) call.sink->put(call.out.bias_index, gradients.out_bias.all());
  for (const Layer& layer : call.in) defer_weight(call, layer, gradients.dz, call.normal);
  defer_weight(call, call.out, dy, call.h);
  return {gradients.dx};
}

Layer layer_of(const Param& weight, const Param& bias, int64_t begin) {
  Layer layer{weight.leaf.detach(), {}, weight.index, bias.index, weight.leaf.size(0), begin};
  if (bias.defined()) layer.bias = bias.leaf.detach();
  return layer;
}

Call call_of(const at::Tensor& x, const FeedForward& layers, const OpContext& context) {
  Call call;
  call.x = x.detach().contiguous();
  call.width = x.size(-1);
  call.rows = x.numel() / call.width;
  call.centred = layers.norm.centred;
  call.eps = static_cast<float>(layers.norm.eps);
  call.norm = layer_of(layers.norm.weight, layers.norm.bias, 0);
  for (const Param& weight : layers.in) {
    call.in.push_back(layer_of(weight, layers.in_bias, call.inner));
    call.inner += call.in.back().out;
  }
  call.out = layer_of(layers.out, layers.out_bias, 0);
  call.hidden = layers.out.leaf.size(1);
  if (!call.gated()) call.activation = kernel_activation(layers.activation);
  call.threads = context.threads;
  call.sink = context.sink;
  return call;
}

void make_room(Call* call, bool recorded) {
  const at::TensorOptions& options = call->x.options();
  if (call->centred) call->mean = at::empty({call->rows}, options);
  call->scale = at::empty({call->rows}, options);
  call->normal = at::empty({call->rows, call->width}, options);
  if (call->gated()) call->both = at::empty({call->rows, call->inner}, options);
  call->h = at::empty({call->rows, call->hidden}, options);
  if (recorded && !call->gated()) call->slope = at::empty_like(call->h);
}

at::Tensor at_once(const at::Tensor& x, const FeedForward& layers, const OpContext& context) {
  Call call = call_of(x, layers, context);
  make_room(&call, needs_backward({x, layers.norm.weight.leaf}));
  at::Tensor y = at::empty_like(call.x);
  forward(call, y);
  return with_backward(std::move(y), {x, layers.norm.weight.leaf},
                       [call](const at::Tensor& dy) { return backward(call, dy); });
}

at::Tensor one_after_the_other(const at::Tensor& x, const FeedForward& layers, OpContext& context) {
  const auto n = [&, &norm = layers.norm] {
    return norm.centred ? layer_norm(x, norm.weight, norm.bias, norm.eps, context)
                        : rms_norm(x, norm.weight, norm.eps, context);
  };
  const auto out = [&](const at::Tensor& h) {
    return linear(h, {layers.out, layers.out_bias, Activation::kNone, Cut::kRowsToPositions}, context);
  };
  if (layers.in.size() == 2) {
    const at::Tensor both = linear_side_by_side(n(), {layers.in, {}, Cut::kPositionsToColumns}, context);
    return add_dropout(x, out(swiglu(both, context)), layers.dropout, layers.stream, context);
  }
  const at::Tensor h =
      linear(n(), {layers.in.front(), layers.in_bias, layers.activation, Cut::kPositionsToColumns}, context);
  return add_dropout(x, out(h), layers.dropout, layers.stream, context);
}

}  // namespace

bool runs_at_once(const at::Tensor& x, const FeedForward& layers, const OpContext& context) {
  const auto whole = [](const Param& weight) {
    return weight.adapter == nullptr && weight.leaf.scalar_type() == at::kFloat;
  };
  return !composed(x) && x.scalar_type() == at::kFloat && !shared(context) && whole(layers.out) &&
         std::ranges::all_of(layers.in, whole) && (layers.dropout == 0 || !context.training);
}

at::Tensor feed_forward(const at::Tensor& x, const FeedForward& layers, OpContext& context) {
  FURROW_CHECK(layers.in.size() == 1 || (layers.in.size() == 2 && !layers.in_bias.defined()),
               "a feed-forward layer reads one layer, or two without biases");
  return runs_at_once(x, layers, context) ? at_once(x, layers, context)
                                          : one_after_the_other(x, layers, context);
}

}  // namespace furrow::tensor
