// Unit kinds as data: what each needs and costs.  nn/ has exactly one block for every row (a test holds them
// together).
#pragma once

#include <span>
#include <string_view>

#include "furrow/plan/model_spec.h"

namespace furrow::models {

//   conv_relu_pool     in_channels, out_channels, kernel, padding: int; relu, pool: bool (2x2, stride 2)
//   linear             in, out: int; bias, flatten: bool; activation: a name of unit_builder.h
//   token_embedding    vocab, context, width: int; dropout: double
//   transformer_block  width, heads, layers (of the model, for the initialisation): int; dropout: double;
//                      bias: bool; activation: "gelu" (also when absent) | "gelu_tanh"
//   lm_head            vocab, width: int; bias: bool (of the norm); tied_to: full name of the embedding, or
//                      nothing
//   embedding          vocab, width: int; std: double (of the initial values)
//   llama_block        width, heads, kv_heads, ffn, layers (for the initialisation): int; rope_theta, eps:
//                      double; and where they are not the defaults: qkv_bias: bool; head_dim (0: width /
//                      heads): int;
//                      rope_scaling: "none" | "linear" | "llama3"; rope_factor: double; of llama3
//                      rope_low_freq_factor, rope_high_freq_factor: double; rope_original_context: int
//   llama_head         vocab, width: int; eps: double; tied_to: full name of the embedding, or ""
//   rnn                in, hidden, out: int; dropout: double (0 when absent)
//   lstm               in, hidden: int; dropout: double (0 when absent)
//   conv_norm          in_channels, out_channels, kernel, stride, padding: int; pool: bool (3x3, stride 2,
//                      padding 1); momentum, eps: double
//   residual_block     in_channels, out_channels, stride: int; shortcut: "pad" | "projection" (where the
//                      shape changes); momentum, eps: double
//   bottleneck_block   the same, and width: int (channels of the middle)
//   pool_linear        channels, out: int
//   latent             width: int
//   delay              forward_ms, backward_input_ms, backward_weight_ms, of a microbatch: double; bytes: int
//   conv               in_channels, out_channels, kernel, stride, padding: int; bias: bool; activation as of
//                      linear
//   activation         activation as of linear; slope: double (of leaky_relu)
//   dropout            p: double
//   max_pool           kernel, stride (0: the kernel), padding: int
//   avg_pool           the same
//   global_avg_pool    nothing
//   layer_norm         eps: double; bias: bool
//   group_norm         groups: int; eps: double
//   batch_norm         momentum, eps: double; activation as of linear
struct Kind {
  std::string_view name;  // "linear"
  // Fills parameters, output, flops and saved_bytes from name, attributes and input. Error{invalid_argument}.
  void (*describe)(plan::Unit& unit);
  // Whether its block computes in bfloat16 and float16; where it does not, a unit among others that do
  // computes in float32.
  bool low_precision = false;
  // Whether its products are float32 all the same, of operands that it converts.
  bool converts = false;
  // Whether they are convolutions of pixels (tensor/kernels/pixel_conv.h), which no tiles multiply.
  bool convolves = false;
};

std::span<const Kind> kinds();
const Kind& find_kind(std::string_view name);  // Error{invalid_argument}, lists the known ones

// A described unit.  Its name starts those of its parameters ("h.0" -> "h.0.ln_1.weight") unless there is an
// attribute "prefix": that one, and with "" the bare names ("wte.weight").
plan::Unit make_unit(std::string name, std::string_view kind, plan::Attributes attributes,
                     plan::TensorSpec input);

// The same for a kind that is not in the table: a program's own.
plan::Unit make_unit(std::string name, const Kind& kind, plan::Attributes attributes, plan::TensorSpec input);

}  // namespace furrow::models
