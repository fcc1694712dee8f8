// Dropout by counters: the mask is a pure function of (key, step, global sample index, element), so nothing
// is stored and backward draws the same mask again.
//
// Element i of a sample uses word i % 4 of philox4x32(philox_counter(step, sample, i / 4), key), exactly
// base/rng.h's Philox::block; it is kept when (word >> 8) >= round(p * 2^24), and scaled by 1 / (1 - p).
// Thread safe.  REQUIRES: 0 <= p < 1; less than 2^34 elements a sample.
#pragma once

#include <array>
#include <cstdint>

namespace furrow::tensor::kernels {

struct DropoutMask {
  float p = 0;
  std::array<uint32_t, 2> key = {};  // Philox(seed, RandomPurpose::kDropout, layer).key()
  uint64_t step = 0;
  const uint64_t* samples = nullptr;  // global sample index of each sample of the batch
  int64_t first = 0;  // which element of a sample element 0 is: where a rank has a part of each sample
};

// out = x * mask / (1 - p) over [batch, per_sample].  Its own backward (x = gradient).  out may alias x.
struct Dropout {
  int64_t batch = 0, per_sample = 0;
  const float* x = nullptr;
  float* out = nullptr;
  DropoutMask mask;
};
void dropout(const Dropout& args, int threads);

// out = residual + x * mask / (1 - p); out may alias x or residual.  With p = 0 a plain sum.
struct ResidualDropout {
  int64_t batch = 0, per_sample = 0;
  const float* residual = nullptr;
  const float* x = nullptr;
  float* out = nullptr;
  DropoutMask mask;
};
void residual_dropout(const ResidualDropout& args, int threads);

}  // namespace furrow::tensor::kernels
