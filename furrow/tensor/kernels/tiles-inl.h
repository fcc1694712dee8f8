// Tile registers, of a processor with AMX and in software: eight, each of 16 rows of 16 32-bit lanes.
//
// Both have
//   zero<T>(), load<T>(from, stride), store<T>(to, stride)   register T; its rows `stride` floats apart
//   add_products<C, A, B>()   TDPBF16PS: C[i][j] += sum over the 16 pairs p of A[i][p] . B[p][j]
// The sum is of two chains of fused multiply-adds from zero over p, of the first numbers of the pairs and of
// the second ones; the two are added, then that to C.  Each rounds to nearest even; subnormals, read or to be
// written, count as zero.  (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2,
// TDPBF16PS)
#include "furrow/tensor/kernels/targets.h"
#if defined(FURROW_TENSOR_KERNELS_TILES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FURROW_TENSOR_KERNELS_TILES_INL_H_
#undef FURROW_TENSOR_KERNELS_TILES_INL_H_
#else
#define FURROW_TENSOR_KERNELS_TILES_INL_H_
#endif

#include "furrow/tensor/kernels/pairs-inl.h"

#if FURROW_BF16_PAIRS
HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {

constexpr int64_t kTileRows = 16, kTilePairs = 16;

// The processor's; while it lives they are configured on this thread.  REQUIRES: usable_tiles() is
// kProcessor. As assembly, like add_products of pairs-inl.h.
class AmxTiles {
 public:
  AmxTiles() {
    Configuration configuration;
    std::fill_n(configuration.row_bytes, 8, static_cast<uint16_t>(kTilePairs * sizeof(float)));
    std::fill_n(configuration.rows, 8, static_cast<uint8_t>(kTileRows));
    __asm__ volatile("ldtilecfg %0" ::"m"(configuration));
  }
  // The system need not save registers that are released.
  ~AmxTiles() { __asm__ volatile("tilerelease" ::: "memory"); }
  AmxTiles(const AmxTiles&) = delete;
  AmxTiles& operator=(const AmxTiles&) = delete;

  template <int T>
  void zero() {
    __asm__ volatile("tilezero %%tmm%c0" ::"i"(T));
  }
  template <int T>
  void load(const float* from, int64_t stride) {
    __asm__ volatile("tileloadd (%0,%1,4), %%tmm%c2" ::"r"(from), "r"(stride), "i"(T) : "memory");
  }
  template <int T>
  void store(float* to, int64_t stride) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,4)" ::"r"(to), "r"(stride), "i"(T) : "memory");
  }
  template <int C, int A, int B>
  void add_products() {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
  }

 private:
  struct Configuration {  // the operand of LDTILECFG
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  };
  static_assert(sizeof(Configuration) == 64);
};

// In software, with the arithmetic of AVX-512.
class EmulatedTiles {
 public:
  EmulatedTiles() = default;
  EmulatedTiles(const EmulatedTiles&) = delete;
  EmulatedTiles& operator=(const EmulatedTiles&) = delete;

  template <int T>
  void zero() {
    std::fill_n(&registers_[T].lane[0][0], kTileRows * kTilePairs, 0.0F);
  }
  template <int T>
  void load(const float* from, int64_t stride) {
    for (int64_t i = 0; i < kTileRows; ++i)
      std::memcpy(registers_[T].lane[i], from + i * stride, sizeof(registers_[T].lane[i]));
  }
  template <int T>
  void store(float* to, int64_t stride) {
    for (int64_t i = 0; i < kTileRows; ++i)
      std::memcpy(to + i * stride, registers_[T].lane[i], sizeof(registers_[T].lane[i]));
  }
  template <int C, int A, int B>
  void add_products() {
    constexpr unsigned kFlushBoth = 0x8040, kMaskAll = 0x1f80;  // all else 0: nearest even
    const unsigned before = _mm_getcsr();
    _mm_setcsr(kFlushBoth | kMaskAll);
    add_flushing(registers_[A], registers_[B], &registers_[C]);
    _mm_setcsr(before);
  }

 private:
  struct Register {
    alignas(64) float lane[kTileRows][kTilePairs];
  };

  // A call of its own, so that nothing of it leaves the scope of the mode.
  static HWY_NOINLINE void add_flushing(const Register& a, const Register& b, Register* c) {
    const __m512i first = _mm512_set1_epi32(0xffff), second = _mm512_slli_epi32(first, 16);
    for (int64_t i = 0; i < kTileRows; ++i) {
      __m512 even = _mm512_setzero_ps(), odd = even;
      for (int64_t p = 0; p < kTilePairs; ++p) {
        int32_t pair;
        std::memcpy(&pair, &a.lane[i][p], sizeof(pair));
        const __m512i x = _mm512_set1_epi32(pair), w = _mm512_load_si512(b.lane[p]);
        even = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(x, 16)),
                               _mm512_castsi512_ps(_mm512_slli_epi32(w, 16)), even);
        odd = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(x, second)),
                              _mm512_castsi512_ps(_mm512_and_si512(w, second)), odd);
      }
      const __m512 sum = _mm512_add_ps(even, odd);
      _mm512_store_ps(c->lane[i], _mm512_add_ps(_mm512_load_ps(c->lane[i]), sum));
    }
  }

  Register registers_[8];
};

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();
#endif

#endif
