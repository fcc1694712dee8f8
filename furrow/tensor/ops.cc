// Where an operation's implementation is chosen: one table, a row for the CPU's kernels and one for every
// other device.  Of a weight with an adapter it is in terms of the operations of weights without.
#include <ATen/ATen.h>

#include <algorithm>

#include "furrow/tensor/adapter_torch.h"
#include "furrow/tensor/composition_torch.h"
#include "furrow/tensor/half_torch.h"
#include "furrow/tensor/image_operations_torch.h"
#include "furrow/tensor/operations_torch.h"
#include "furrow/tensor/tensor_axis_torch.h"

namespace furrow::tensor {
namespace {

struct Operations {
  decltype(&by_kernels::linear) linear;
  decltype(&by_kernels::linear_side_by_side) linear_side_by_side;
  decltype(&by_kernels::conv2d) conv2d;
  decltype(&by_kernels::strided_conv2d) strided_conv2d;
  decltype(&by_kernels::batch_norm) batch_norm;
  decltype(&by_kernels::subsample_and_pad) subsample_and_pad;
  decltype(&by_kernels::max_pool) max_pool;
  decltype(&by_kernels::average_pool) average_pool;
  decltype(&by_kernels::biased_activation) biased_activation;
  decltype(&by_kernels::global_average_pool) global_average_pool;
  decltype(&by_kernels::embedding) embedding;
  decltype(&by_kernels::embedding_cut) embedding_cut;
  decltype(&by_kernels::layer_norm) layer_norm;
  decltype(&by_kernels::rms_norm) rms_norm;
  decltype(&by_kernels::swiglu) swiglu;
  decltype(&by_kernels::causal_attention) causal_attention;
  decltype(&by_kernels::lstm) lstm;
  decltype(&by_kernels::recurrent_concatenation) recurrent_concatenation;
  decltype(&by_kernels::dropout) dropout;
  decltype(&by_kernels::dropout_of_columns) dropout_of_columns;
  decltype(&by_kernels::add_dropout) add_dropout;
};

#define FURROW_OPERATIONS(row)    \
  {&row::linear,                  \
   &row::linear_side_by_side,     \
   &row::conv2d,                  \
   &row::strided_conv2d,          \
   &row::batch_norm,              \
   &row::subsample_and_pad,       \
   &row::max_pool,                \
   &row::average_pool,            \
   &row::biased_activation,       \
   &row::global_average_pool,     \
   &row::embedding,               \
   &row::embedding_cut,           \
   &row::layer_norm,              \
   &row::rms_norm,                \
   &row::swiglu,                  \
   &row::causal_attention,        \
   &row::lstm,                    \
   &row::recurrent_concatenation, \
   &row::dropout,                 \
   &row::dropout_of_columns,      \
   &row::add_dropout}
constexpr Operations kKernels FURROW_OPERATIONS(by_kernels);
constexpr Operations kCompositions FURROW_OPERATIONS(by_composition);
#undef FURROW_OPERATIONS

// By the tensor that lies where the unit computes: token ids wait on the host for the lookup.
const Operations& for_tensor(const at::Tensor& x) { return composed(x) ? kCompositions : kKernels; }

bool adapted(const Param& weight) { return weight.adapter != nullptr; }

}  // namespace

at::Tensor linear(const at::Tensor& x, const LinearLayer& layer, OpContext& context) {
  if (layer.weight.adapter) return linear_with_adapter(x, layer, context);
  return for_tensor(x).linear(x, layer, context);
}

at::Tensor linear_side_by_side(const at::Tensor& x, const SideBySideLayers& layers, OpContext& context) {
  FURROW_CHECK(x.dim() >= 2 && is_number(x) && !layers.weights.empty(),
               "linear_side_by_side reads numbers [..., in]");
  FURROW_CHECK(layers.biases.empty() || layers.biases.size() == layers.weights.size(),
               "each layer has a bias, or none has");
  FURROW_CHECK(layers.cut == Cut::kNone || layers.cut == Cut::kPositionsToColumns,
               "outputs side by side are cut");
  if (std::ranges::any_of(layers.weights, adapted)) return side_by_side_with_adapters(x, layers, context);
  return for_tensor(x).linear_side_by_side(x, layers, context);
}

at::Tensor conv2d(const at::Tensor& x, const Param& weight, const Param& bias, const Convolution& convolution,
                  OpContext& context) {
  if (weight.adapter) return conv2d_with_adapter(x, weight, bias, convolution, context);
  return for_tensor(x).conv2d(x, weight, bias, convolution, context);
}

at::Tensor strided_conv2d(const at::Tensor& x, const Param& weight, const StridedConvolution& convolution,
                          OpContext& context) {
  if (weight.adapter) return strided_conv2d_with_adapter(x, weight, convolution, context);
  return for_tensor(x).strided_conv2d(x, weight, convolution, context);
}

at::Tensor batch_norm(const at::Tensor& x, const Param& weight, const Param& bias, const BatchNorm& norm,
                      OpContext& context) {
  return for_tensor(x).batch_norm(x, weight, bias, norm, context);
}

at::Tensor subsample_and_pad(const at::Tensor& x, int64_t stride, int64_t channels, OpContext& context) {
  return for_tensor(x).subsample_and_pad(x, stride, channels, context);
}

at::Tensor max_pool(const at::Tensor& x, const Pool& pool, OpContext& context) {
  return for_tensor(x).max_pool(x, pool, context);
}

at::Tensor average_pool(const at::Tensor& x, const Pool& pool, OpContext& context) {
  return for_tensor(x).average_pool(x, pool, context);
}

at::Tensor biased_activation(const at::Tensor& x, const Param& bias, Activation activation,
                             OpContext& context) {
  if (activation == Activation::kNone && !bias.defined()) return x;
  return for_tensor(x).biased_activation(x, bias, activation, context);
}

at::Tensor global_average_pool(const at::Tensor& x, OpContext& context) {
  return for_tensor(x).global_average_pool(x, context);
}

at::Tensor embedding(const at::Tensor& ids, const Param& tokens, const Param& positions, OpContext& context) {
  if (adapted(tokens) || adapted(positions)) return embedding_with_adapters(ids, tokens, positions, context);
  return for_tensor(tokens.leaf).embedding(ids, tokens, positions, context);
}

at::Tensor embedding_cut(const at::Tensor& ids, const Param& tokens, const Param& positions,
                         int64_t vocabulary, OpContext& context) {
  if (!shared(context)) return embedding(ids, tokens, positions, context);
  const CutTables tables{tokens, positions, vocabulary};
  if (adapted(tokens) || adapted(positions)) return embedding_cut_with_adapters(ids, tables, context);
  return embedding_cut(ids, tables, context);
}

at::Tensor embedding_cut(const at::Tensor& ids, const CutTables& tables, OpContext& context) {
  return for_tensor(tables.tokens.leaf).embedding_cut(ids, tables, context);
}

at::Tensor layer_norm(const at::Tensor& x, const Param& weight, const Param& bias, double eps,
                      OpContext& context) {
  return for_tensor(x).layer_norm(x, weight, bias, eps, context);
}

at::Tensor rms_norm(const at::Tensor& x, const Param& weight, double eps, OpContext& context) {
  return for_tensor(x).rms_norm(x, weight, eps, context);
}

at::Tensor swiglu(const at::Tensor& gate_up, OpContext& context) {
  return for_tensor(gate_up).swiglu(gate_up, context);
}

at::Tensor causal_attention(const at::Tensor& qkv, const AttentionHeads& heads, double dropout_p,
                            std::string_view stream, OpContext& context) {
  return for_tensor(qkv).causal_attention(qkv, heads, dropout_p, stream, context);
}

at::Tensor lstm(const at::Tensor& x, const Param& weight, const Param& bias, OpContext& context) {
  return for_tensor(x).lstm(x, weight, bias, context);
}

at::Tensor recurrent_concatenation(const at::Tensor& x, const Param& weight, const Param& bias,
                                   OpContext& context) {
  return for_tensor(x).recurrent_concatenation(x, weight, bias, context);
}

at::Tensor dropout(const at::Tensor& x, double p, std::string_view stream, OpContext& context) {
  return for_tensor(x).dropout(x, p, stream, context);
}

at::Tensor dropout_of_columns(const at::Tensor& x, int64_t columns, double p, std::string_view stream,
                              OpContext& context) {
  return for_tensor(x).dropout_of_columns(x, columns, p, stream, context);
}

at::Tensor add_dropout(const at::Tensor& residual, const at::Tensor& x, double p, std::string_view stream,
                       OpContext& context) {
  return for_tensor(x).add_dropout(residual, x, p, stream, context);
}

}  // namespace furrow::tensor
