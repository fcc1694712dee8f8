// The operations that blocks are written in: differentiable, over numbers of one type: float32, or bfloat16
// or float16, where sums, statistics and parameter gradients are float32 all the same.  Where they run is
// decided by the device of their tensors (composition_torch.h).
//
// An operation with parameters puts the gradients of norms and biases into context.sink during backward and
// defers the gradients of weights there (gradient_sink_torch.h); autograd gets no gradient for them.  With
// context.sink null no parameter gradient is formed.  Random masks are a function of (context.seed,
// context.step, context.sample_ids, layer name) alone: rows of a microbatch may be split and merged at will.
// Thread safety: a context belongs to one thread; everything else may be shared.
// Errors: Error{internal} when shapes do not fit (a unit's spec has been validated before).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <string_view>

#include "furrow/tensor/gradient_sink_torch.h"
#include "furrow/tensor/op_context.h"

namespace furrow::tensor {

// GELU is the exact one, x * Phi(x).  Linear layers apply those up to kGeluTanh in their product.
enum class Activation : uint8_t { kNone, kRelu, kGelu, kGeluTanh, kSilu, kSoftplus, kTanh, kSigmoid };

// How the ranks of context.axis share a linear layer; without an axis of several ranks all are kNone.  What
// travels is in `plan::Unit::collectives`; sums over the ranks are of float32 and rounded once.
enum class Cut : uint8_t {
  kNone,
  kColumns,  // a rank has some of the outs, of weight and bias; x is whole, and its gradient the sum of all
  kRows,     // a rank has some of the ins, of weight and x; y is the sum of all, then bias and activation
  // The same where between the two a rank has a part of the positions of [batch, time, ...]: x is gathered
  // and its gradient scattered; the sum is scattered and its gradient gathered.  A bias behind such a sum has
  // the gradient of the rank's positions alone (GradientSink::sum_over).
  kPositionsToColumns,
  kRowsToPositions,
};

// y [..., out] = activation(x [..., in] weight^T + bias); weight [out, in]; `bias` may be absent.  What ranks
// add up of a layer of 16 bits is float32: the gradient of an x that is float32, whose numbers are `read` or,
// where that is undefined, x rounded to the weight's type, and y where `wide_output`, which has neither bias
// nor activation, nor a cut.
struct LinearLayer {
  Param weight, bias = {};
  Activation activation = Activation::kNone;
  Cut cut = Cut::kNone;
  bool wide_output = false;
  at::Tensor read = {};
};
at::Tensor linear(const at::Tensor& x, const LinearLayer& layer, OpContext& context);
inline at::Tensor linear(const at::Tensor& x, const Param& weight, const Param& bias, Activation activation,
                         OpContext& context) {
  return linear(x, LinearLayer{weight, bias, activation}, context);
}

// y [..., sum of outs] = x [W_0; W_1; ...]^T + [b_0, b_1, ...], several linear layers over one input, results
// side by side; W_i [out_i, in].  There are no biases, or one of each layer, which may be absent.  `cut` is
// kNone or kPositionsToColumns.  A float32 x and its numbers as linear()'s.
struct SideBySideLayers {
  std::span<const Param> weights, biases = {};
  Cut cut = Cut::kNone;
  at::Tensor read = {};
};
at::Tensor linear_side_by_side(const at::Tensor& x, const SideBySideLayers& layers, OpContext& context);

struct Convolution {
  int64_t padding = 0;
  bool relu = false;
  bool pool = false;  // 2x2 max pool, stride 2, floor
};

// y = pool(relu(conv(x [batch, channels, height, width], weight [out, channels, k, k]) + bias)), stride 1.
at::Tensor conv2d(const at::Tensor& x, const Param& weight, const Param& bias, const Convolution& convolution,
                  OpContext& context);

// Residual networks.  Their images are [batch, channels, height, width] with the channels of a pixel side by
// side in memory (libtorch's channels-last); an input that lies otherwise is copied.

struct StridedConvolution {
  int64_t stride = 1, padding = 0;
};

// y = conv(x, weight [out, channels, k, k]), without a bias: a norm follows.
at::Tensor strided_conv2d(const at::Tensor& x, const Param& weight, const StridedConvolution& convolution,
                          OpContext& context);

struct BatchNorm {
  double eps = 1e-5;
  bool relu = false;
  at::Tensor residual;  // of x's shape, or undefined: is added before the ReLU
  // Of OpContext's statistics, elements: where the mean and the variance of this norm begin.
  int64_t mean_offset = 0, variance_offset = 0;
};

// y = relu(norm(x) + residual), the norm over batch, height and width (Ioffe and Szegedy, "Batch
// normalization", 2015): in training by the mean and the biased variance of x, of which mean and unbiased
// variance go into context.batch_statistics where there is room; else by context.statistics.
// Error{invalid_argument}: training with one value per channel.
at::Tensor batch_norm(const at::Tensor& x, const Param& weight, const Param& bias, const BatchNorm& norm,
                      OpContext& context);

// Every `stride`-th pixel, with channels of zeros behind the others up to `channels`: option A of He et al.,
// "Deep residual learning for image recognition", 2016, which has half of the new ones on either side; which
// side is a matter of naming.
at::Tensor subsample_and_pad(const at::Tensor& x, int64_t stride, int64_t channels, OpContext& context);

struct Pool {
  int64_t kernel = 2, stride = 2, padding = 0;  // as kernels/pool.h requires
};
at::Tensor max_pool(const at::Tensor& x, const Pool& pool, OpContext& context);
at::Tensor average_pool(const at::Tensor& x, const Pool& pool, OpContext& context);  // the border counts as 0

// The mean over height and width: [batch, channels].
at::Tensor global_average_pool(const at::Tensor& x, OpContext& context);

// y = activation(x + bias), `bias` [channels] of an image, or absent.
at::Tensor biased_activation(const at::Tensor& x, const Param& bias, Activation activation,
                             OpContext& context);

// y [batch, time, width] = tokens[ids [batch, time]] + positions[p], p being context.positions or 0 .. time -
// 1 in each row.  `positions` [>= time, width] may be absent.  Error{invalid_argument}: an id outside the
// table, named.
at::Tensor embedding(const at::Tensor& ids, const Param& tokens, const Param& positions, OpContext& context);

// The same where the ranks of context.axis have the table: `tokens` are rank * rows .. of `vocabulary` rows,
// and the result is the rank's part of the positions, [batch, time / ranks, width].  Its gradient is gathered
// from all positions, so that of `positions`, which every rank has whole, is the same on each.
at::Tensor embedding_cut(const at::Tensor& ids, const Param& tokens, const Param& positions,
                         int64_t vocabulary, OpContext& context);

// Over the last dim (Ba, Kiros and Hinton, "Layer normalization", 2016), biased variance.  `bias` may be
// absent.
at::Tensor layer_norm(const at::Tensor& x, const Param& weight, const Param& bias, double eps,
                      OpContext& context);

// x / sqrt(mean(x^2) + eps) * weight over the last dim (Zhang and Sennrich, 2019).
at::Tensor rms_norm(const at::Tensor& x, const Param& weight, double eps, OpContext& context);

// silu(gate) * up; gate_up [..., 2 * width] holds gate and up side by side.
at::Tensor swiglu(const at::Tensor& gate_up, OpContext& context);

struct AttentionHeads {
  int64_t heads = 0;
  int64_t kv_heads = 0;  // divides heads; 0: as many
  at::Tensor rotary;     // of rotary_table, or undefined: no rotary positions
};

// Cosines, then sines, of position times frequency, radians: [time, 2 * frequencies].
at::Tensor rotary_table(int64_t time, std::span<const double> frequencies);

// Causal self-attention, within each document of context.positions, over qkv [batch, time, (heads + 2
// kv_heads) * head_size] (q, k, v side by side, heads side by side in each); the result is [batch, time,
// heads * head_size].  Probabilities are dropped with `dropout_p` under the layer name `stream`.
at::Tensor causal_attention(const at::Tensor& qkv, const AttentionHeads& heads, double dropout_p,
                            std::string_view stream, OpContext& context);
inline at::Tensor causal_attention(const at::Tensor& qkv, int64_t heads, double dropout_p,
                                   std::string_view stream, OpContext& context) {
  return causal_attention(qkv, AttentionHeads{heads, 0, {}}, dropout_p, stream, context);
}

// An LSTM layer over x [batch, time, in] from a state of zeros: the four gates, i f g o, are
// weight [4 * hidden, in + hidden] times [x_t, h_{t-1}], plus bias.  The result is h [batch, time, hidden].
at::Tensor lstm(const at::Tensor& x, const Param& weight, const Param& bias, OpContext& context);

// h_t = tanh(weight [hidden, in + hidden] [x_t, h_{t-1}] + bias) from a state of zeros.  The result is what
// the cell reads, [x_t, h_{t-1}]: [batch, time, in + hidden].
at::Tensor recurrent_concatenation(const at::Tensor& x, const Param& weight, const Param& bias,
                                   OpContext& context);

// x * mask / (1 - p) while context.training; x itself otherwise.  REQUIRES: 0 <= p < 1, dim 0 is the sample;
// over a tensor axis x is the rank's part of each sample, the parts of all ranks one after the other, and has
// its part of the whole mask.  (The heads of causal_attention too.)
at::Tensor dropout(const at::Tensor& x, double p, std::string_view stream, OpContext& context);
// The same where x [batch, .., part] are the rank's of `columns` columns, as context.axis shares them.
at::Tensor dropout_of_columns(const at::Tensor& x, int64_t columns, double p, std::string_view stream,
                              OpContext& context);

// residual + dropout(x).
at::Tensor add_dropout(const at::Tensor& residual, const at::Tensor& x, double p, std::string_view stream,
                       OpContext& context);

}  // namespace furrow::tensor
