// 16-bit floating point numbers in memory: bfloat16 and IEEE half precision.  Arithmetic is float32;
// conversion to 16 bits rounds to nearest even, subnormals included, and keeps NaN.
#pragma once

#include <cstdint>

namespace furrow::tensor::kernels {

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

// to[i] = from[i], n elements.  Thread safe; the ranges must not overlap.
void convert(int64_t n, const bf16* from, float* to, int threads);
void convert(int64_t n, const f16* from, float* to, int threads);
void convert(int64_t n, const float* from, bf16* to, int threads);
void convert(int64_t n, const float* from, f16* to, int threads);

// out[i] = a[i] + b[i] in float32, rounded; out may be a or b.  Thread safe.
void add(int64_t n, const bf16* a, const bf16* b, bf16* out, int threads);
void add(int64_t n, const f16* a, const f16* b, f16* out, int threads);

}  // namespace furrow::tensor::kernels
