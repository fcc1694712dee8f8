// Causal self-attention, softmax(q k^T / sqrt(head_size) + causal mask) v, fused: no [T, T] matrix leaves the
// cache.  q, k, v are views of one packed [batch, time, 3 * channels] buffer (q, then k, then v; head h owns
// columns h * head_size of each); the output is [batch, time, channels].  Forward keeps the log-sum-exp of
// every row (Dao et al., FlashAttention, 2022).  Dropout acts on the probabilities, after the softmax, as in
// PyTorch.
//
// Parallel over (sample, head); a head is computed by one thread in a fixed order, so bits depend neither on
// the thread count nor on the other samples.  Thread safe.  REQUIRES: channels % heads == 0, sizes >= 1.
#pragma once

#include <cstdint>

#include "furrow/tensor/kernels/dropout.h"

namespace furrow::tensor::kernels {

struct AttentionShape {
  int64_t batch = 0, time = 0, heads = 0, head_size = 0;
  int64_t channels() const { return heads * head_size; }
};

// Element (h, i, j) of a sample's mask is word (h * time + i) * time + j of its stream.
struct AttentionForward {
  AttentionShape shape;
  const float* qkv = nullptr;            // [batch, time, 3 * channels]
  float* out = nullptr;                  // [batch, time, channels]
  float* log_sum_exp = nullptr;          // [batch, heads, time]
  const DropoutMask* dropout = nullptr;  // null: none; samples has `batch` entries
};
void attention_forward(const AttentionForward& args, int threads);

struct AttentionBackward {
  AttentionShape shape;
  const float* qkv = nullptr;
  const float* out = nullptr;
  const float* log_sum_exp = nullptr;
  const float* dout = nullptr;  // [batch, time, channels]
  float* dqkv = nullptr;        // [batch, time, 3 * channels], every element written
  const DropoutMask* dropout = nullptr;
};
void attention_backward(const AttentionBackward& args, int threads);

}  // namespace furrow::tensor::kernels
