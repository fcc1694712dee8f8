// 16-bit floating point numbers in memory: bfloat16 and IEEE half precision.  Arithmetic is float32;
// conversion to 16 bits rounds to nearest even, subnormals included, and keeps NaN.
#pragma once

#include <cstdint>

#include "furrow/base/half.h"

namespace furrow::tensor::kernels {

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

// One of them, or a float32 as it is.
inline float to_float(float x) { return x; }
inline float to_float(bf16 x) { return bf16_to_float(x.bits); }
inline float to_float(f16 x) { return f16_to_float(x.bits); }
inline void set_to(float& x, float value) { x = value; }
inline void set_to(bf16& x, float value) { x.bits = float_to_bf16(value); }
inline void set_to(f16& x, float value) { x.bits = float_to_f16(value); }

// to[i] = from[i], n elements.  Thread safe; the ranges must not overlap.
void convert(int64_t n, const bf16* from, float* to, int threads);
void convert(int64_t n, const f16* from, float* to, int threads);
void convert(int64_t n, const float* from, bf16* to, int threads);
void convert(int64_t n, const float* from, f16* to, int threads);

// out[i] = a[i] + b[i] in float32, rounded; out may be a or b.  Thread safe.
void add(int64_t n, const bf16* a, const bf16* b, bf16* out, int threads);
void add(int64_t n, const f16* a, const f16* b, f16* out, int threads);

}  // namespace furrow::tensor::kernels
