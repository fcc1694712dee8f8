// Causal self-attention, softmax(q k^T / sqrt(head_size) + causal mask) v, fused: no [T, T] matrix leaves the
// cache.  q, k, v are views of one packed [batch, time, row] buffer (q, then k, then v; head h owns columns
// h * head_size of each); the output is [batch, time, channels].  Forward keeps the log-sum-exp of every row
// (Dao et al., FlashAttention, 2022).  Dropout acts on the probabilities, after the softmax, as in PyTorch.
//
// With fewer heads of keys and values than of queries, consecutive query heads share one (Ainslie et al.,
// "GQA", 2023).  With `rotary`, queries and keys are rotated by their position on the way into the products
// (Su et al., "RoFormer", 2021), element d with element d + head_size / 2, as Hugging Face's Llama has it;
// qkv itself stays as it is.
//
// Several documents may share a row: with `documents`, a query sees the keys of its own document alone, up to
// itself, and positions count from the document's start.  Each document has the bits that it has in a row of
// its own; no mask is formed, and the work is the sum of the squares of their lengths.
//
// Parallel over (document or sample, key-value head); each is computed by one thread in a fixed order, so
// bits depend neither on the thread count nor on the other samples.  Thread safe.  REQUIRES: heads % kv_heads
// == 0, sizes >= 1, an even head_size with `rotary`.
#pragma once

#include <cstdint>
#include <span>

#include "furrow/tensor/kernels/dropout.h"

namespace furrow::tensor::kernels {

struct AttentionShape {
  int64_t batch = 0, time = 0, heads = 0, head_size = 0;
  int64_t kv_heads = 0;  // 0: as many as heads
  int64_t keys() const { return kv_heads > 0 ? kv_heads : heads; }
  int64_t group() const { return heads / keys(); }  // query heads of a key-value head
  int64_t channels() const { return heads * head_size; }
  int64_t kv_channels() const { return keys() * head_size; }
  int64_t row() const { return channels() + 2 * kv_channels(); }
};

// Tokens [begin, begin + length) of a sample.
struct AttentionDocument {
  int64_t sample = 0, begin = 0, length = 0;
};

// Element (h, i, j) of a sample's mask is word (h * time + i) * time + j of its stream.
struct AttentionForward {
  AttentionShape shape;
  const float* qkv = nullptr;            // [batch, time, row]
  float* out = nullptr;                  // [batch, time, channels]
  float* log_sum_exp = nullptr;          // [batch, heads, time]
  const DropoutMask* dropout = nullptr;  // null: none; samples has `batch` entries
  const float* rotary = nullptr;  // [time, head_size]: cosines of the angles, then their sines; or null
  std::span<const AttentionDocument> documents = {};  // disjoint, every token in one; empty: rows are whole
};
void attention_forward(const AttentionForward& args, int threads);

struct AttentionBackward {
  AttentionShape shape;
  const float* qkv = nullptr;
  const float* out = nullptr;
  const float* log_sum_exp = nullptr;
  const float* dout = nullptr;  // [batch, time, channels]
  float* dqkv = nullptr;        // [batch, time, row], every element written
  const DropoutMask* dropout = nullptr;
  const float* rotary = nullptr;
  std::span<const AttentionDocument> documents = {};
};
void attention_backward(const AttentionBackward& args, int threads);

}  // namespace furrow::tensor::kernels
