// Philox4x32-10 for many blocks at once, the same bits as base/rng.h (Salmon et al., SC 2011).
#include "furrow/tensor/kernels/targets.h"
#if defined(FURROW_TENSOR_KERNELS_PHILOX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FURROW_TENSOR_KERNELS_PHILOX_INL_H_
#undef FURROW_TENSOR_KERNELS_PHILOX_INL_H_
#else
#define FURROW_TENSOR_KERNELS_PHILOX_INL_H_
#endif

#include <algorithm>
#include <cmath>

#include "furrow/base/rng.h"
#include "furrow/tensor/kernels/dropout.h"
#include "furrow/tensor/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {

constexpr int64_t kChunkWords = 512;               // words drawn at once
constexpr int64_t kChunkBuffer = kChunkWords + 4;  // a chunk may start in the middle of a block

#if HWY_TARGET == HWY_SCALAR
inline void philox_words(const DropoutMask& m, uint64_t sample, uint32_t block, int64_t blocks,
                         uint32_t* out) {
  for (int64_t b = 0; b < blocks; ++b) {
    const PhiloxBlock words =
        philox4x32(philox_counter(m.step, sample, block + static_cast<uint32_t>(b)), m.key);
    std::copy(words.begin(), words.end(), out + 4 * b);
  }
}
#else

struct HighLow {
  VU high, low;
};

// The two halves of factor * x in every lane.
HWY_INLINE HighLow wide_mul(VU factor, VU x) {
  using D64 = hn::Repartition<uint64_t, DU>;
  const auto even = hn::MulEven(factor, x);
  const auto odd = hn::MulEven(factor, hn::BitCast(DU(), hn::ShiftRight<32>(hn::BitCast(D64(), x))));
  const VU high = hn::OddEven(hn::BitCast(DU(), odd), hn::BitCast(DU(), hn::ShiftRight<32>(even)));
  const VU low = hn::OddEven(hn::BitCast(DU(), hn::ShiftLeft<32>(odd)), hn::BitCast(DU(), even));
  return {high, low};
}

// Blocks [block, block + kLanes): word w of block l in lane l of w[w].
HWY_INLINE void philox_vector(const DropoutMask& m, uint64_t sample, uint32_t block, VU (&c)[4]) {
  const PhiloxBlock start = philox_counter(m.step, sample, block);
  c[0] = hn::Iota(DU(), start[0]);
  for (int i = 1; i < 4; ++i) c[i] = hn::Set(DU(), start[static_cast<size_t>(i)]);
  VU k0 = hn::Set(DU(), m.key[0]), k1 = hn::Set(DU(), m.key[1]);
  const VU m0 = hn::Set(DU(), 0xD2511F53u), m1 = hn::Set(DU(), 0xCD9E8D57u);
  for (int round = 0; round < 10; ++round) {
    const HighLow p0 = wide_mul(m0, c[0]), p1 = wide_mul(m1, c[2]);
    c[0] = hn::Xor(hn::Xor(p1.high, c[1]), k0);
    c[2] = hn::Xor(hn::Xor(p0.high, c[3]), k1);
    c[1] = p1.low;
    c[3] = p0.low;
    k0 = hn::Add(k0, hn::Set(DU(), 0x9E3779B9u));
    k1 = hn::Add(k1, hn::Set(DU(), 0xBB67AE85u));
  }
}

// Words of blocks [block, block + blocks) of a sample, in order; writes up to kLanes - 1 blocks beyond.
inline void philox_words(const DropoutMask& m, uint64_t sample, uint32_t block, int64_t blocks,
                         uint32_t* out) {
  for (int64_t b = 0; b < blocks; b += kLanes) {
    VU words[4];
    philox_vector(m, sample, block + static_cast<uint32_t>(b), words);
    hn::StoreInterleaved4(words[0], words[1], words[2], words[3], DU(), out + 4 * b);
  }
}
#endif

// The factors, 0 or 1 / (1 - p), of elements [first, first + n) of a sample, n <= kChunkWords.
inline void dropout_factors(const DropoutMask& m, uint64_t sample, int64_t first, int64_t n, float* out) {
  uint32_t words[kChunkBuffer + 4 * 16];
  first += m.first;
  const int64_t skip = first % 4;
  philox_words(m, sample, static_cast<uint32_t>(first / 4), (skip + n + 3) / 4, words);
  const VI last_dropped =
      hn::Set(DI(), static_cast<int32_t>(std::lround(static_cast<double>(m.p) * 0x1p24)) - 1);
  const VF scale = set(1.0f / (1.0f - m.p));
  sweep(0, n, [&](int64_t i, auto at) HWY_ATTR {
    const VI word = hn::BitCast(DI(), hn::ShiftRight<8>(hn::LoadU(DU(), words + skip + i)));
    const auto keep = hn::Gt(word, last_dropped);
    at.store(hn::IfThenElseZero(hn::RebindMask(DF(), keep), scale), out + i);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#endif
