// Vectors of the kernels, compiled once per instruction set (no include guard in the usual sense: Highway's).
//
// VF is the machine's vector of at most 16 floats.  F16 is the virtual vector of exactly 16 lanes, 16 /
// kLanes of VF, in which every reduction runs, so that a sum does not depend on the machine's vector width.
#include "furrow/tensor/kernels/targets.h"
// Highway's pattern: this guard toggles with each target.
#if defined(FURROW_TENSOR_KERNELS_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FURROW_TENSOR_KERNELS_SIMD_INL_H_
#undef FURROW_TENSOR_KERNELS_SIMD_INL_H_
#else
#define FURROW_TENSOR_KERNELS_SIMD_INL_H_
#endif

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <cstdint>
#include <cstring>

#include "furrow/base/half.h"
#include "furrow/tensor/kernels/half.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::CappedTag<float, 16>;
using DI = hn::RebindToSigned<DF>;
using DU = hn::RebindToUnsigned<DF>;
using VF = hn::Vec<DF>;
using VI = hn::Vec<DI>;
using VU = hn::Vec<DU>;
using MF = hn::Mask<DF>;
constexpr int kLanes = static_cast<int>(hn::MaxLanes(DF()));
constexpr int kParts = 16 / kLanes;
constexpr int kVectorRegisters = HWY_TARGET == HWY_AVX2 ? 16 : 32;

HWY_INLINE VF set(float x) { return hn::Set(DF(), x); }
HWY_INLINE VF zero() { return hn::Zero(DF()); }
HWY_INLINE VF load(const float* p) { return hn::LoadU(DF(), p); }
HWY_INLINE void store(VF v, float* p) { hn::StoreU(v, DF(), p); }

// The first n lanes, 0 <= n <= kLanes; the others are zero and their memory is not touched.
HWY_INLINE VF load_part(const float* p, int64_t n) {
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3  // the others would touch the absent lanes
  return hn::MaskedLoad(hn::FirstN(DF(), static_cast<size_t>(n)), DF(), p);
#else
  alignas(64) float buffer[kLanes] = {};
  std::memcpy(buffer, p, static_cast<size_t>(n) * sizeof(float));
  return hn::Load(DF(), buffer);
#endif
}

HWY_INLINE void store_part(VF v, float* p, int64_t n) {
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3  // the others would touch the absent lanes
  hn::BlendedStore(v, hn::FirstN(DF(), static_cast<size_t>(n)), DF(), p);
#else
  alignas(64) float buffer[kLanes];
  hn::Store(v, DF(), buffer);
  std::memcpy(p, buffer, static_cast<size_t>(n) * sizeof(float));
#endif
}

// The same of 16-bit numbers in memory.
using DH = hn::Rebind<uint16_t, DF>;
using VH = hn::Vec<DH>;
using DF16 = hn::Rebind<hwy::float16_t, DF>;

HWY_INLINE VF widen(VH bits, const bf16*) {
  return hn::BitCast(DF(), hn::ShiftLeft<16>(hn::PromoteTo(DU(), bits)));
}
#if HWY_TARGET == HWY_SCALAR  // Highway's own lose subnormals
HWY_INLINE VF widen(VH bits, const f16*) { return set(f16_to_float(hn::GetLane(bits))); }
HWY_INLINE VH narrow(VF x, const f16*) { return hn::Set(DH(), float_to_f16(hn::GetLane(x))); }
#else
HWY_INLINE VF widen(VH bits, const f16*) { return hn::PromoteTo(DF(), hn::BitCast(DF16(), bits)); }
HWY_INLINE VH narrow(VF x, const f16*) { return hn::BitCast(DH(), hn::DemoteTo(DF16(), x)); }
#endif

HWY_INLINE VH narrow(VF x, const bf16*) {
  const VU u = hn::BitCast(DU(), x), high = hn::ShiftRight<16>(u);
  const VU odd = hn::And(high, hn::Set(DU(), 1));
  const VU rounded = hn::ShiftRight<16>(hn::Add(u, hn::Add(odd, hn::Set(DU(), 0x7fff))));
  const VU quiet = hn::Or(high, hn::Set(DU(), 0x40));
  const VU bits = hn::IfThenElse(hn::RebindMask(DU(), hn::IsNaN(x)), quiet, rounded);
  return hn::DemoteTo(DH(), hn::BitCast(DI(), bits));
}
HWY_INLINE VH load_bits_part(const uint16_t* p, int64_t n) {
#if HWY_TARGET == HWY_AVX3
  return hn::MaskedLoad(hn::FirstN(DH(), static_cast<size_t>(n)), DH(), p);
#else
  alignas(64) uint16_t buffer[kLanes] = {};
  std::memcpy(buffer, p, static_cast<size_t>(n) * sizeof(uint16_t));
  return hn::Load(DH(), buffer);
#endif
}
HWY_INLINE void store_bits_part(VH v, uint16_t* p, int64_t n) {
#if HWY_TARGET == HWY_AVX3
  hn::BlendedStore(v, hn::FirstN(DH(), static_cast<size_t>(n)), DH(), p);
#elif HWY_TARGET == HWY_SCALAR
  if (n > 0) *p = hn::GetLane(v);
#else
  alignas(64) uint16_t buffer[kLanes];
  hn::Store(v, DH(), buffer);
  std::memcpy(p, buffer, static_cast<size_t>(n) * sizeof(uint16_t));
#endif
}

template <class H>
HWY_INLINE VF load(const H* p) {
  return widen(hn::LoadU(DH(), &p->bits), p);
}
template <class H>
HWY_INLINE VF load_part(const H* p, int64_t n) {
  return widen(load_bits_part(&p->bits, n), p);
}
template <class H>
HWY_INLINE void store(VF v, H* p) {
  hn::StoreU(narrow(v, p), DH(), &p->bits);
}
template <class H>
HWY_INLINE void store_part(VF v, H* p, int64_t n) {
  store_bits_part(narrow(v, p), &p->bits, n);
}

// How a body of sweep() reads and writes: whole vectors, or the first n lanes at the end.
// Of float32 or a 16-bit type.
struct Full {
  template <class T>
  HWY_INLINE VF load(const T* p) const {
    return HWY_NAMESPACE::load(p);
  }
  template <class T>
  HWY_INLINE void store(VF v, T* p) const {
    HWY_NAMESPACE::store(v, p);
  }
};
struct Part {
  int64_t n;
  template <class T>
  HWY_INLINE VF load(const T* p) const {
    return load_part(p, n);
  }
  template <class T>
  HWY_INLINE void store(VF v, T* p) const {
    store_part(v, p, n);
  }
};

// body(i, access) for i = begin, begin + kLanes, ...
template <class Body>
HWY_INLINE void sweep(int64_t begin, int64_t end, const Body& body) {
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) body(i, Full());
  if (i < end) body(i, Part{end - i});
}

struct F16 {
  VF v[kParts];
};

HWY_INLINE F16 set16(float x) {
  F16 r;
  for (int p = 0; p < kParts; ++p) r.v[p] = set(x);
  return r;
}
template <class T>
HWY_INLINE F16 load16(const T* x) {
  F16 r;
  for (int p = 0; p < kParts; ++p) r.v[p] = load(x + p * kLanes);
  return r;
}
// How many of part p's lanes are among the first n of 16.
HWY_INLINE int64_t part_lanes(int64_t n, int p) {
  const int64_t left = n - p * kLanes;
  return left < 0 ? 0 : left > kLanes ? kLanes : left;
}
// The first n of 16 lanes; the others become `fill`.
template <class T>
HWY_INLINE F16 load16_part(const T* x, int64_t n, float fill) {
  F16 r;
  for (int p = 0; p < kParts; ++p) {
    const int64_t lanes = part_lanes(n, p);
    r.v[p] = hn::IfThenElse(hn::FirstN(DF(), static_cast<size_t>(lanes)), load_part(x + p * kLanes, lanes),
                            set(fill));
  }
  return r;
}
template <class T>
HWY_INLINE void store16_part(const F16& x, T* out, int64_t n) {
  for (int p = 0; p < kParts; ++p) store_part(x.v[p], out + p * kLanes, part_lanes(n, p));
}
template <class T>
HWY_INLINE void store16(const F16& x, T* out) {
  for (int p = 0; p < kParts; ++p) store(x.v[p], out + p * kLanes);
}
// fn on each part: map16([](VF a, VF b) { return hn::Add(a, b); }, x, y).
template <class Fn, class... Args>
HWY_INLINE F16 map16(const Fn& fn, const Args&... args) {
  F16 r;
  for (int p = 0; p < kParts; ++p) r.v[p] = fn(args.v[p]...);
  return r;
}
HWY_INLINE F16 add16(const F16& a, const F16& b) {
  return map16([](VF x, VF y) HWY_ATTR { return hn::Add(x, y); }, a, b);
}

// body(i, access) over a row in steps of 16: whole vectors, then the rest with `fill` in the absent lanes.
struct Full16 {
  template <class T>
  HWY_INLINE F16 load(const T* p) const {
    return load16(p);
  }
  template <class T>
  HWY_INLINE void store(const F16& v, T* p) const {
    store16(v, p);
  }
};
struct Part16 {
  int64_t n;
  float fill;
  template <class T>
  HWY_INLINE F16 load(const T* p) const {
    return load16_part(p, n, fill);
  }
  template <class T>
  HWY_INLINE void store(const F16& v, T* p) const {
    store16_part(v, p, n);
  }
};
template <class Body>
HWY_INLINE void sweep16(int64_t n, float fill, const Body& body) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) body(i, Full16());
  if (i < n) body(i, Part16{n - i, fill});
}

// ((i + i+8) + (i+4 + i+12)), then (0 + 2) + (1 + 3): the one tree of every 16-lane sum.
#if HWY_TARGET == HWY_SCALAR
HWY_INLINE float sum16(const F16& x) {
  float v[16];
  store16(x, v);
  for (int half = 8; half > 2; half /= 2) {
    for (int i = 0; i < half; ++i) v[i] += v[i + half];
  }
  return (v[0] + v[2]) + (v[1] + v[3]);
}
#else
using D4 = hn::FixedTag<float, 4>;
using V4 = hn::Vec<D4>;

HWY_INLINE V4 fold4(const F16& x) {
#if HWY_TARGET == HWY_AVX3
  const hn::FixedTag<float, 8> d8;
  const auto h = hn::Add(hn::LowerHalf(d8, x.v[0]), hn::UpperHalf(d8, x.v[0]));
  return hn::Add(hn::LowerHalf(D4(), h), hn::UpperHalf(D4(), h));
#elif HWY_TARGET == HWY_AVX2
  const auto h = hn::Add(x.v[0], x.v[1]);
  return hn::Add(hn::LowerHalf(D4(), h), hn::UpperHalf(D4(), h));
#else
  static_assert(kParts == 4, "a target with another vector size needs its own fold");
  return hn::Add(hn::Add(x.v[0], x.v[2]), hn::Add(x.v[1], x.v[3]));
#endif
}

HWY_INLINE float sum16(const F16& x) {
  alignas(16) float v[4];
  hn::Store(fold4(x), D4(), v);
  return (v[0] + v[2]) + (v[1] + v[3]);
}

// Rows a, b, c, d become columns.
HWY_INLINE void transpose4(V4& a, V4& b, V4& c, V4& d) {
  const V4 ac = hn::InterleaveLower(D4(), a, c), bd = hn::InterleaveLower(D4(), b, d);
  const V4 ac2 = hn::InterleaveUpper(D4(), a, c), bd2 = hn::InterleaveUpper(D4(), b, d);
  a = hn::InterleaveLower(D4(), ac, bd);
  b = hn::InterleaveUpper(D4(), ac, bd);
  c = hn::InterleaveLower(D4(), ac2, bd2);
  d = hn::InterleaveUpper(D4(), ac2, bd2);
}
#endif

// out[i] = sum16 of the 16 floats at x + 16 * i.
HWY_INLINE void sum16_rows(const float* x, int64_t n, float* out) {
  int64_t i = 0;
#if HWY_TARGET != HWY_SCALAR
  for (; i + 4 <= n; i += 4) {
    V4 a = fold4(load16(x + 16 * i)), b = fold4(load16(x + 16 * i + 16));
    V4 c = fold4(load16(x + 16 * i + 32)), d = fold4(load16(x + 16 * i + 48));
    transpose4(a, b, c, d);
    hn::StoreU(hn::Add(hn::Add(a, c), hn::Add(b, d)), D4(), out + i);
  }
#endif
  for (; i < n; ++i) out[i] = sum16(load16(x + 16 * i));
}

#if HWY_TARGET != HWY_SCALAR
// Four floats of each of the rows p, p + step, ...: one row per 128-bit block.
HWY_INLINE VF load_rows(const float* p, int64_t step) {
#if HWY_TARGET == HWY_AVX3
  const hn::FixedTag<float, 8> d8;
  const auto low = hn::Combine(d8, hn::LoadU(D4(), p + step), hn::LoadU(D4(), p));
  const auto high = hn::Combine(d8, hn::LoadU(D4(), p + 3 * step), hn::LoadU(D4(), p + 2 * step));
  return hn::Combine(DF(), high, low);
#elif HWY_TARGET == HWY_AVX2
  return hn::Combine(DF(), hn::LoadU(D4(), p + step), hn::LoadU(D4(), p));
#else
  return load(p);
#endif
}

// dst[j * dst_stride + i] = src[i * src_stride + j] for i < kLanes, j < 4.
HWY_INLINE void transpose_lanes(const float* src, int64_t src_stride, float* dst, int64_t dst_stride) {
  const VF a = load_rows(src, 4 * src_stride), b = load_rows(src + src_stride, 4 * src_stride);
  const VF c = load_rows(src + 2 * src_stride, 4 * src_stride),
           d = load_rows(src + 3 * src_stride, 4 * src_stride);
  const VF ac = hn::InterleaveLower(DF(), a, c), bd = hn::InterleaveLower(DF(), b, d);
  const VF ac2 = hn::InterleaveUpper(DF(), a, c), bd2 = hn::InterleaveUpper(DF(), b, d);
  store(hn::InterleaveLower(DF(), ac, bd), dst);
  store(hn::InterleaveUpper(DF(), ac, bd), dst + dst_stride);
  store(hn::InterleaveLower(DF(), ac2, bd2), dst + 2 * dst_stride);
  store(hn::InterleaveUpper(DF(), ac2, bd2), dst + 3 * dst_stride);
}

// dst[j * dst_stride + i] = src[i * src_stride + j] for i < kLanes, j < columns / 4 * 4, in that order of j.
// Rows a multiple of 2 KiB apart share the few ways of one cache set: a line of each is first copied aside.
// Sixteen columns at a time, those of the rows from `next` on are fetched ahead.
HWY_INLINE void transpose_strip(const float* src, int64_t src_stride, int64_t columns, float* dst,
                                int64_t dst_stride, int64_t next = kLanes) {
  int64_t j = 0;
  const float* ahead = src + next * src_stride;
  for (; src_stride % 512 == 0 && j + 16 <= columns; j += 16) {
    float lines[kLanes * 16];
    for (int i = 0; i < kLanes; ++i) store16(load16(src + i * src_stride + j), lines + 16 * i);
    for (int k = 0; k < 16; k += 4) transpose_lanes(lines + k, 16, dst + (j + k) * dst_stride, dst_stride);
  }
  for (; j + 4 <= columns; j += 4) {
    // A quarter of the next rows' lines with each quarter of a line.
    for (int i = static_cast<int>(j / 4 % 4); i < kLanes; i += 4) hwy::Prefetch(ahead + i * src_stride + j);
    transpose_lanes(src + j, src_stride, dst + j * dst_stride, dst_stride);
  }
}

HWY_INLINE void transpose_4x4(const float* src, int64_t src_stride, float* dst, int64_t dst_stride) {
  V4 a = hn::LoadU(D4(), src), b = hn::LoadU(D4(), src + src_stride);
  V4 c = hn::LoadU(D4(), src + 2 * src_stride), d = hn::LoadU(D4(), src + 3 * src_stride);
  transpose4(a, b, c, d);
  hn::StoreU(a, D4(), dst);
  hn::StoreU(b, D4(), dst + dst_stride);
  hn::StoreU(c, D4(), dst + 2 * dst_stride);
  hn::StoreU(d, D4(), dst + 3 * dst_stride);
}
#endif

// dst[j * dst_stride + i] = src[i * src_stride + j], i < rows, j < columns.
HWY_INLINE void transpose_block(const float* src, int64_t src_stride, int64_t rows, int64_t columns,
                                float* dst, int64_t dst_stride) {
  int64_t done = 0;  // columns
#if HWY_TARGET != HWY_SCALAR
  done = columns / 4 * 4;
  int64_t i = 0;
  for (; i + kLanes <= rows; i += kLanes)
    transpose_strip(src + i * src_stride, src_stride, done, dst + i, dst_stride);
  for (; i + 4 <= rows; i += 4) {
    for (int64_t j = 0; j < done; j += 4) {
      transpose_4x4(src + i * src_stride + j, src_stride, dst + j * dst_stride + i, dst_stride);
    }
  }
  for (; i < rows; ++i) {
    for (int64_t j = 0; j < done; ++j) dst[j * dst_stride + i] = src[i * src_stride + j];
  }
#endif
  for (int64_t j = done; j < columns; ++j) {
    for (int64_t k = 0; k < rows; ++k) dst[j * dst_stride + k] = src[k * src_stride + j];
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#endif
