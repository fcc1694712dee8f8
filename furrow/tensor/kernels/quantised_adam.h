// AdamW with moments of eight bits, quantised in blocks: Dettmers et al., "8-bit optimizers via block-wise
// quantization", 2022.
//
// A state is a byte for each element, an index into a fixed map of 256 values of [-1, 1] or [0, 1], and a
// float32 for each block, its largest magnitude.  The map is the paper's dynamic one: as many values lie in
// each decade as its exponent leaves bits for.  The second state is the root of the second moment, where the
// paper keeps that itself: so both have the range of a gradient, and a small gradient beside large ones
// cannot lose its denominator before its numerator.
#pragma once

#include <array>
#include <cstdint>

namespace furrow::tensor::kernels {

inline constexpr int64_t kQuantisedBlock = 256;  // elements
inline int64_t quantised_blocks(int64_t n) { return (n + kQuantisedBlock - 1) / kQuantisedBlock; }

// Code 0 is 0.  Signed: codes 1 to 128 go up to 1, 255 down to 129 are the negatives of codes 1 to 127.
// Unsigned: codes go up to 1.
const std::array<float, 256>& dynamic_map(bool is_signed);

// The code of the value that lies nearest; of two that are, but for 2^-22 of `x`, either.  `x` within [-1,
// 1], or [0, 1].
uint8_t nearest_code(float x, bool is_signed);

// As Adam of kernels/optimizer.h with decoupled decay; what is kept of m and of sqrt(v) is rounded to the
// map. Blocks are counted from `param`; the bits of an element depend on its block alone.
struct QuantisedAdam {
  int64_t n = 0;
  float* param = nullptr;
  const float* grad = nullptr;
  uint8_t* first = nullptr;       // n codes of m
  float* first_scale = nullptr;   // quantised_blocks(n)
  uint8_t* second = nullptr;      // n codes of sqrt(v)
  float* second_scale = nullptr;  // the same
  float grad_scale = 1;
  double lr = 0, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;
  int64_t step = 1;
};
void quantised_adam_step(const QuantisedAdam& args, int threads);

}  // namespace furrow::tensor::kernels
