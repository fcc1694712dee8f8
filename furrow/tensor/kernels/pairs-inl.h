// Pairs of bfloat16: two neighbours of a sum are one 32-bit lane, the one that comes first in its low half.
#include "furrow/tensor/kernels/targets.h"
#if defined(FURROW_TENSOR_KERNELS_PAIRS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FURROW_TENSOR_KERNELS_PAIRS_INL_H_
#undef FURROW_TENSOR_KERNELS_PAIRS_INL_H_
#else
#define FURROW_TENSOR_KERNELS_PAIRS_INL_H_
#endif

#include <algorithm>

#include "furrow/tensor/kernels/pairs.h"
#include "furrow/tensor/kernels/simd-inl.h"

#undef FURROW_BF16_PAIRS
#if HWY_TARGET == HWY_AVX3
#define FURROW_BF16_PAIRS 1
#include <immintrin.h>
#else
#define FURROW_BF16_PAIRS 0
#endif

#if FURROW_BF16_PAIRS
HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {

// The bits of two numbers as one lane.
inline float pair_of(bf16 low, bf16 high) {
  const uint32_t bits = low.bits | static_cast<uint32_t>(high.bits) << 16;
  float lane;
  std::memcpy(&lane, &bits, sizeof(lane));
  return lane;
}

// dst[i] is the pair low[i], high[i], which are `count` numbers each; without `high` 0.
inline void zip(const bf16* low, const bf16* high, int64_t count, float* dst) {
  int64_t i = 0;
  alignas(64) static constexpr uint16_t kFirst[32] = {0,  32, 1,  33, 2,  34, 3,  35, 4,  36, 5,
                                                      37, 6,  38, 7,  39, 8,  40, 9,  41, 10, 42,
                                                      11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i first = _mm512_load_si512(kFirst), second = _mm512_add_epi16(first, _mm512_set1_epi16(16));
  for (; high != nullptr && i + 32 <= count; i += 32) {
    const __m512i even = _mm512_loadu_si512(low + i), odd = _mm512_loadu_si512(high + i);
    _mm512_storeu_si512(dst + i, _mm512_permutex2var_epi16(even, first, odd));
    _mm512_storeu_si512(dst + i + 16, _mm512_permutex2var_epi16(even, second, odd));
  }
  for (; i < count; i += kLanes) {
    const auto some = static_cast<__mmask16>((1U << std::min<int64_t>(16, count - i)) - 1);
    const __m512i even = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, low + i));
    __m512i odd = _mm512_setzero_si512();
    if (high != nullptr) odd = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, high + i));
    _mm512_mask_storeu_epi32(dst + i, some, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
  }
}

// The pairs without what comes second.
HWY_INLINE VF first_of_pairs(VF pairs) {
  return hn::BitCast(DF(), hn::And(hn::BitCast(DU(), pairs), hn::Set(DU(), 0xffff)));
}

// sum + x.first w.first + x.second w.second by lane: VDPBF16PS.  REQUIRES: has_pairs().
// As assembly: with the intrinsic every function that it is inlined into would need the instruction set.
HWY_INLINE VF add_products(VF x, VF w, VF sum) {
  __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum.raw) : "v"(x.raw), "v"(w.raw));
  return sum;
}

// narrow() of simd-inl.h in one instruction, VCVTNEPS2BF16: subnormals become zero.  REQUIRES: has_pairs().
HWY_INLINE VH narrow_normal(VF x) {
  VH bits;
  __asm__("vcvtneps2bf16 %1, %0" : "=v"(bits.raw) : "v"(x.raw));
  return bits;
}
HWY_INLINE void store_normal(VF x, bf16* to, Full) { hn::StoreU(narrow_normal(x), DH(), &to->bits); }
HWY_INLINE void store_normal(VF x, bf16* to, Part part) {
  store_bits_part(narrow_normal(x), &to->bits, part.n);
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();
#endif

#endif
