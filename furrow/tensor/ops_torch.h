// The operations that blocks are written in: differentiable, float32, on the CPU.
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
#include <string_view>

#include "furrow/tensor/gradient_sink_torch.h"
#include "furrow/tensor/op_context.h"

namespace furrow::tensor {

enum class Activation : uint8_t { kNone, kRelu, kGelu };  // GELU is the exact one, x * Phi(x)

// y [..., out] = activation(x [..., in] weight^T + bias); weight [out, in]; `bias` may be absent.
at::Tensor linear(const at::Tensor& x, const Param& weight, const Param& bias, Activation activation,
                  OpContext& context);

struct Convolution {
  int64_t padding = 0;
  bool relu = false;
  bool pool = false;  // 2x2 max pool, stride 2, floor
};

// y = pool(relu(conv(x [batch, channels, height, width], weight [out, channels, k, k]) + bias)), stride 1.
at::Tensor conv2d(const at::Tensor& x, const Param& weight, const Param& bias, const Convolution& convolution,
                  OpContext& context);

// y [batch, time, width] = tokens[ids [batch, time]] + positions[0 .. time).  `positions` [>= time, width]
// may be absent.  Error{invalid_argument}: an id outside the table, named.
at::Tensor embedding(const at::Tensor& ids, const Param& tokens, const Param& positions, OpContext& context);

// Over the last dim (Ba, Kiros and Hinton, "Layer normalization", 2016), biased variance.  `bias` may be
// absent.
at::Tensor layer_norm(const at::Tensor& x, const Param& weight, const Param& bias, double eps,
                      OpContext& context);

// Causal self-attention over qkv [batch, time, 3 * width] (q, k, v side by side, heads side by side in each);
// the result is [batch, time, width].  Probabilities are dropped with `dropout_p` under the layer name
// `stream`.
at::Tensor causal_attention(const at::Tensor& qkv, int64_t heads, double dropout_p, std::string_view stream,
                            OpContext& context);

// x * mask / (1 - p) while context.training; x itself otherwise.  REQUIRES: 0 <= p < 1, dim 0 is the sample.
at::Tensor dropout(const at::Tensor& x, double p, std::string_view stream, OpContext& context);

// residual + dropout(x).
at::Tensor add_dropout(const at::Tensor& residual, const at::Tensor& x, double p, std::string_view stream,
                       OpContext& context);

}  // namespace furrow::tensor
