#include <ATen/ATen.h>

#include <cmath>

#include "furrow/base/error.h"
#include "furrow/base/rng.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/ops_torch.h"

namespace furrow::tensor {
namespace {

at::Tensor mask_like(const at::Tensor& x, double p, std::string_view stream, const OpContext& context) {
  const Philox philox(context.seed, RandomPurpose::kDropout, stream);
  at::Tensor mask = at::empty_like(x);
  const int64_t per_sample = x.numel() / x.size(0);
  const auto threshold = static_cast<uint32_t>(std::llround(p * 0x1p24));
  float* out = mask.data_ptr<float>();
  for (int64_t b = 0; b < x.size(0); ++b) {
    for (int64_t i = 0; i < per_sample; ++i) {
      const PhiloxBlock words =
          philox.block(context.step, context.sample_ids[b], static_cast<uint32_t>(i / 4));
      out[b * per_sample + i] = (words[i % 4] >> 8) >= threshold ? static_cast<float>(1 / (1 - p)) : 0.0f;
    }
  }
  return mask;
}

}  // namespace

at::Tensor linear(const at::Tensor& x, const Param& weight, const Param& bias, Activation activation,
                  OpContext&) {
  const at::Tensor y = at::linear(x, weight.leaf, bias.defined() ? bias.leaf : at::Tensor());
  return activation == Activation::kRelu ? y.relu() : activation == Activation::kGelu ? at::gelu(y) : y;
}

at::Tensor conv2d(const at::Tensor& x, const Param& weight, const Param& bias, const Convolution& convolution,
                  OpContext&) {
  at::Tensor y =
      at::conv2d(x, weight.leaf, bias.defined() ? bias.leaf : at::Tensor(), 1, convolution.padding);
  if (convolution.relu) y = y.relu();
  return convolution.pool ? at::max_pool2d(y, 2) : y;
}

at::Tensor embedding(const at::Tensor& ids, const Param& tokens, const Param& positions, OpContext&) {
  at::Tensor y = at::embedding(tokens.leaf, ids);
  return positions.defined() ? y + positions.leaf.narrow(0, 0, ids.size(1)) : y;
}

at::Tensor layer_norm(const at::Tensor& x, const Param& weight, const Param& bias, double eps, OpContext&) {
  return at::layer_norm(x, {x.size(-1)}, weight.leaf, bias.defined() ? bias.leaf : at::Tensor(), eps);
}

at::Tensor causal_attention(const at::Tensor& qkv, int64_t heads, double p, std::string_view stream,
                            OpContext& context) {
  const int64_t batch = qkv.size(0), time = qkv.size(1), width = qkv.size(2) / 3;
  const auto parts = qkv.view({batch, time, 3, heads, width / heads}).permute({2, 0, 3, 1, 4});
  const at::Tensor scores = parts[0].matmul(parts[1].transpose(-1, -2)) / std::sqrt(double(width / heads));
  const at::Tensor causal = at::ones({time, time}, at::kBool).tril();
  at::Tensor probabilities = scores.masked_fill(causal.logical_not(), -INFINITY).softmax(-1);
  if (context.training && p > 0) probabilities = probabilities * mask_like(probabilities, p, stream, context);
  return probabilities.matmul(parts[2]).transpose(1, 2).reshape({batch, time, width});
}

at::Tensor dropout(const at::Tensor& x, double p, std::string_view stream, OpContext& context) {
  return context.training && p > 0 ? x * mask_like(x, p, stream, context) : x;
}

at::Tensor add_dropout(const at::Tensor& residual, const at::Tensor& x, double p, std::string_view stream,
                       OpContext& context) {
  return residual + dropout(x, p, stream, context);
}

}  // namespace furrow::tensor
