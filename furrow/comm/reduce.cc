#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "furrow/comm/reduce.cc"
// Vectors whose size the compiler does not know, and targets between the baseline and AVX2, are left out.
#ifndef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS \
  (HWY_SSSE3 | HWY_SSE4 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#endif
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on
#include "furrow/comm/reduce.h"

#include <hwy/highway.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>

#include "furrow/base/error.h"
#include "furrow/base/half.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::comm {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

// How each data type is read into and written from vectors of the type it is added in.
template <class T>
struct Plain {
  using Stored = T;
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;
  static HWY_INLINE V load(const T* p) { return hn::LoadU(D(), p); }
  static HWY_INLINE void store(V v, T* p) { hn::StoreU(v, D(), p); }
};

struct BFloat16 {
  using Stored = uint16_t;
  using D = hn::ScalableTag<float>;
  using V = hn::Vec<D>;
  using D32 = hn::RebindToUnsigned<D>;
  using DSigned = hn::RebindToSigned<D>;
  using D16 = hn::Rebind<uint16_t, D>;
  static HWY_INLINE V load(const uint16_t* p) {
    return hn::BitCast(D(), hn::ShiftLeft<16>(hn::PromoteTo(D32(), hn::LoadU(D16(), p))));
  }
  static HWY_INLINE void store(V v, uint16_t* p) {
    const auto u = hn::BitCast(D32(), v);
    const auto high = hn::ShiftRight<16>(u);
    const auto even = hn::And(high, hn::Set(D32(), 1));
    const auto rounded = hn::ShiftRight<16>(hn::Add(hn::Add(u, hn::Set(D32(), 0x7fff)), even));
    const auto quiet = hn::Or(high, hn::Set(D32(), 0x40));
    const auto bits = hn::IfThenElse(hn::RebindMask(D32(), hn::IsNaN(v)), quiet, rounded);
    hn::StoreU(hn::DemoteTo(D16(), hn::BitCast(DSigned(), bits)), D16(), p);
  }
};

struct Float16 {
  using Stored = uint16_t;
  using D = hn::ScalableTag<float>;
  using V = hn::Vec<D>;
  static HWY_INLINE V load(const uint16_t* p) {
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET <= HWY_AVX3
    const hn::Rebind<hwy::float16_t, D> half;
    return hn::PromoteTo(D(), hn::LoadU(half, reinterpret_cast<const hwy::float16_t*>(p)));
#else
    float lanes[hn::MaxLanes(D())];
    for (size_t i = 0; i < hn::MaxLanes(D()); ++i) lanes[i] = f16_to_float(p[i]);
    return hn::LoadU(D(), lanes);
#endif
  }
  static HWY_INLINE void store(V v, uint16_t* p) {
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET <= HWY_AVX3
    const hn::Rebind<hwy::float16_t, D> half;
    hn::StoreU(hn::DemoteTo(half, v), half, reinterpret_cast<hwy::float16_t*>(p));
#else
    float lanes[hn::MaxLanes(D())];
    hn::StoreU(v, D(), lanes);
    for (size_t i = 0; i < hn::MaxLanes(D()); ++i) p[i] = float_to_f16(lanes[i]);
#endif
  }
};

constexpr size_t kFewBytes = 16;

#if HWY_TARGET == HWY_AVX2 || HWY_TARGET <= HWY_AVX3
template <class Type>
inline constexpr bool kMasks = std::is_floating_point_v<typename Type::Stored>;
#else
template <class Type>
inline constexpr bool kMasks = false;
#endif

// The first n of a vector, and zeros: where no instruction reads so many, by way of a whole one.
template <class Type>
HWY_INLINE typename Type::V load_some(const typename Type::Stored* p, size_t n) {
  if constexpr (kMasks<Type>) {
    const typename Type::D d;
    return hn::MaskedLoad(hn::FirstN(d, n), d, p);
  } else {
    typename Type::Stored all[hn::MaxLanes(typename Type::D())] = {};
    std::memcpy(all, p, n * sizeof(all[0]));
    return Type::load(all);
  }
}

template <class Type>
HWY_INLINE void store_some(typename Type::V v, typename Type::Stored* p, size_t n) {
  if constexpr (kMasks<Type>) {
    const typename Type::D d;
    hn::BlendedStore(v, hn::FirstN(d, n), d, p);
  } else {
    typename Type::Stored all[hn::MaxLanes(typename Type::D())];
    Type::store(v, all);
    std::memcpy(p, all, n * sizeof(all[0]));
  }
}

struct Sum {
  template <class V>
  HWY_INLINE V operator()(V a, V b) const {
    return hn::Add(a, b);
  }
};
struct Product {
  template <class V>
  HWY_INLINE V operator()(V a, V b) const {
    return hn::Mul(a, b);
  }
};
struct Minimum {  // a NaN wins
  template <class V>
  HWY_INLINE V operator()(V a, V b) const {
    return hn::IfThenElse(hn::Or(hn::Lt(a, b), hn::IsNaN(a)), a, b);
  }
};
struct Maximum {
  template <class V>
  HWY_INLINE V operator()(V a, V b) const {
    return hn::IfThenElse(hn::Or(hn::Lt(b, a), hn::IsNaN(a)), a, b);
  }
};

// Of 16 bytes at most.  A whole vector, of which the rest is masked out, may reach into the next line, and
// waits for it where another core has it.
template <class Type, class Fn>
HWY_INLINE void zip_few(size_t n, const typename Type::Stored* a, const typename Type::Stored* b,
                        typename Type::Stored* out, typename Type::Stored* again, const Fn& fn) {
  const hn::CappedTag<typename Type::Stored, kFewBytes / sizeof(typename Type::Stored)> d;
  const auto first = hn::FirstN(d, n);
  const auto result = fn(hn::MaskedLoad(first, d, a), hn::MaskedLoad(first, d, b));
  hn::BlendedStore(result, first, d, out);
  if (again != out) hn::BlendedStore(result, first, d, again);
}

// fn(a, b) to both destinations, which may be one, or a and b.
template <class Type, class Fn>
HWY_INLINE void zip(int64_t n, const std::byte* a_bytes, const std::byte* b_bytes, std::byte* out_bytes,
                    std::byte* again_bytes, const Fn& fn) {
  using T = typename Type::Stored;
  constexpr auto kLanes = static_cast<int64_t>(hn::MaxLanes(typename Type::D()));
  const T* a = reinterpret_cast<const T*>(a_bytes);
  const T* b = reinterpret_cast<const T*>(b_bytes);
  T* out = reinterpret_cast<T*>(out_bytes);
  T* again = reinterpret_cast<T*>(again_bytes);
  int64_t i = 0;
  for (; again == out && i + 2 * kLanes <= n; i += 2 * kLanes) {
    const auto first = fn(Type::load(a + i), Type::load(b + i));
    const auto second = fn(Type::load(a + i + kLanes), Type::load(b + i + kLanes));
    Type::store(first, out + i);
    Type::store(second, out + i + kLanes);
  }
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    const auto first = fn(Type::load(a + i), Type::load(b + i));
    const auto second = fn(Type::load(a + i + kLanes), Type::load(b + i + kLanes));
    Type::store(first, out + i);
    Type::store(second, out + i + kLanes);
    Type::store(first, again + i);
    Type::store(second, again + i + kLanes);
  }
  while (i < n) {
    if constexpr (kMasks<Type>) {
      if (n - i <= static_cast<int64_t>(kFewBytes / sizeof(T)))
        return zip_few<Type>(static_cast<size_t>(n - i), a + i, b + i, out + i, again + i, fn);
    }
    const auto part = static_cast<size_t>(std::min(kLanes, n - i));
    const auto result = fn(load_some<Type>(a + i, part), load_some<Type>(b + i, part));
    store_some<Type>(result, out + i, part);
    if (again != out) store_some<Type>(result, again + i, part);
    i += kLanes;
  }
}

template <class Type>
void zip_floats(Reduction reduction, int64_t n, const std::byte* a, const std::byte* b, std::byte* out,
                std::byte* again) {
  switch (reduction) {
    case Reduction::kSum:
    case Reduction::kAvg:
      return zip<Type>(n, a, b, out, again, Sum());
    case Reduction::kMin:
      return zip<Type>(n, a, b, out, again, Minimum());
    case Reduction::kMax:
      return zip<Type>(n, a, b, out, again, Maximum());
    case Reduction::kProd:
      return zip<Type>(n, a, b, out, again, Product());
  }
}

// Integers: plain loops, which the compiler makes vectors of.
template <class T, class Fn>
HWY_INLINE void loop(int64_t n, const std::byte* a, const std::byte* b, std::byte* out, std::byte* again,
                     const Fn& fn) {
  const T* x = reinterpret_cast<const T*>(a);
  const T* y = reinterpret_cast<const T*>(b);
  T* z = reinterpret_cast<T*>(out);
  T* w = reinterpret_cast<T*>(again);
  if (w == z) {
    for (int64_t i = 0; i < n; ++i) z[i] = fn(x[i], y[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) w[i] = z[i] = fn(x[i], y[i]);
  }
}

template <class T>
void zip_integers(Reduction reduction, int64_t n, const std::byte* a, const std::byte* b, std::byte* out,
                  std::byte* again) {
  using U = std::conditional_t<sizeof(T) < 4, uint32_t, std::make_unsigned_t<T>>;  // wraps, without promotion
  switch (reduction) {
    case Reduction::kSum:
    case Reduction::kAvg:
      return loop<T>(n, a, b, out, again,
                     [](T x, T y) { return static_cast<T>(static_cast<U>(x) + static_cast<U>(y)); });
    case Reduction::kMin:
      return loop<T>(n, a, b, out, again, [](T x, T y) { return x < y ? x : y; });
    case Reduction::kMax:
      return loop<T>(n, a, b, out, again, [](T x, T y) { return y < x ? x : y; });
    case Reduction::kProd:
      return loop<T>(n, a, b, out, again,
                     [](T x, T y) { return static_cast<T>(static_cast<U>(x) * static_cast<U>(y)); });
  }
}

template <class Type, class Factor>
void scale_floats(int64_t n, Factor factor, std::byte* data) {
  zip<Type>(n, data, data, data, data, [factor](auto a, auto) HWY_ATTR {
    return hn::Mul(a, hn::Set(hn::DFromV<decltype(a)>(), factor));
  });
}

template <class T>
void divide_integers(int64_t n, int ranks, std::byte* data) {
  T* x = reinterpret_cast<T*>(data);
  for (int64_t i = 0; i < n; ++i) x[i] = static_cast<T>(static_cast<int64_t>(x[i]) / ranks);
}

}  // namespace

void run_combine(DType dtype, Reduction reduction, int64_t n, const std::byte* a, const std::byte* b,
                 std::byte* out, std::byte* again) {
  switch (dtype) {
    case DType::kF64:
      return zip_floats<Plain<double>>(reduction, n, a, b, out, again);
    case DType::kF32:
      return zip_floats<Plain<float>>(reduction, n, a, b, out, again);
    case DType::kF16:
      return zip_floats<Float16>(reduction, n, a, b, out, again);
    case DType::kBF16:
      return zip_floats<BFloat16>(reduction, n, a, b, out, again);
    case DType::kI64:
      return zip_integers<int64_t>(reduction, n, a, b, out, again);
    case DType::kI32:
      return zip_integers<int32_t>(reduction, n, a, b, out, again);
    case DType::kU8:
      return zip_integers<uint8_t>(reduction, n, a, b, out, again);
    default:
      FURROW_CHECK(false, "a data type that cannot be reduced");
  }
}

void run_divide(DType dtype, int64_t n, int ranks, std::byte* data) {
  switch (dtype) {
    case DType::kF64:
      return scale_floats<Plain<double>>(n, 1.0 / ranks, data);
    case DType::kF32:
      return scale_floats<Plain<float>>(n, 1.0F / static_cast<float>(ranks), data);
    case DType::kF16:
      return scale_floats<Float16>(n, 1.0F / static_cast<float>(ranks), data);
    case DType::kBF16:
      return scale_floats<BFloat16>(n, 1.0F / static_cast<float>(ranks), data);
    case DType::kI64:
      return divide_integers<int64_t>(n, ranks, data);
    case DType::kI32:
      return divide_integers<int32_t>(n, ranks, data);
    case DType::kU8:
      return divide_integers<uint8_t>(n, ranks, data);
    default:
      FURROW_CHECK(false, "a data type that cannot be reduced");
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::comm
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace furrow::comm {
namespace {

HWY_EXPORT(run_combine);
HWY_EXPORT(run_divide);

constexpr size_t kBlockBytes = 8192;
constexpr int kMostLevels = 20;  // of a tree over 2^20 ranks

// One block of elements through the tree.  Sums that wait for their sibling lie in `levels`.
class TreeBlock {
 public:
  TreeBlock(const ReduceKind& kind, std::span<const std::byte* const> sources, std::byte* levels)
      : kind_(kind), sources_(sources), levels_(levels) {}

  void run(size_t offset, int64_t n, std::byte* out) {
    offset_ = offset;
    n_ = n;
    const int ranks = static_cast<int>(sources_.size());
    const std::byte* result = node(0, ranks, 0, out);
    if (result != out) std::memcpy(out, result, static_cast<size_t>(n) * dtype_size(kind_.dtype));
    finish(kind_, n, out);
  }

 private:
  // The sum of [b, e), at `out` unless it is a source itself.
  const std::byte* node(int b, int e, int level, std::byte* out) {
    if (e - b == 1) return sources_[static_cast<size_t>(b)] + offset_;
    const int m = tree_split(b, e);
    std::byte* mine = levels_ + static_cast<size_t>(level) * kBlockBytes;
    // A destination may be a source that is still to be read: only the last addition writes there.
    const std::byte* left = node(b, m, level + 1, mine);
    const std::byte* right = node(m, e, level + 1, levels_ + static_cast<size_t>(level + 1) * kBlockBytes);
    combine(kind_, n_, left, right, out);
    return out;
  }

  const ReduceKind& kind_;
  std::span<const std::byte* const> sources_;
  std::byte* levels_;
  size_t offset_ = 0;
  int64_t n_ = 0;
};

// Apart, as a small operation should not pay for its buffer.
[[gnu::noinline]] void reduce_in_blocks(const ReduceKind& kind, int64_t n,
                                        std::span<const std::byte* const> sources,
                                        std::span<std::byte* const> destinations) {
  const int levels = 2 + std::bit_width(sources.size());
  FURROW_CHECK(!sources.empty() && !destinations.empty() && levels <= kMostLevels);
  alignas(64) std::byte buffer[kMostLevels * kBlockBytes];
  const size_t element = dtype_size(kind.dtype);
  const auto block = static_cast<int64_t>(kBlockBytes / element);
  TreeBlock tree(kind, sources, buffer);
  for (int64_t i = 0; i < n; i += block) {
    const int64_t part = std::min(block, n - i);
    const size_t offset = static_cast<size_t>(i) * element, bytes = static_cast<size_t>(part) * element;
    std::byte* first = destinations[0] + offset;
    tree.run(offset, part, first);
    for (std::byte* other : destinations.subspan(1)) std::memcpy(other + offset, first, bytes);
  }
}

}  // namespace

void combine(const ReduceKind& kind, int64_t n, const std::byte* a, const std::byte* b, std::byte* out) {
  HWY_DYNAMIC_DISPATCH(run_combine)(kind.dtype, kind.reduction, n, a, b, out, out);
}

void finish(const ReduceKind& kind, int64_t n, std::byte* data) {
  if (kind.reduction == Reduction::kAvg && kind.ranks > 1) {
    HWY_DYNAMIC_DISPATCH(run_divide)(kind.dtype, n, kind.ranks, data);
  }
}

int tree_split(int b, int e) {
  return b + static_cast<int>(std::bit_floor(static_cast<unsigned>(e - b - 1)));
}

void reduce_tree(const ReduceKind& kind, int64_t n, std::span<const std::byte* const> sources,
                 std::span<std::byte* const> destinations) {
  const bool finished = kind.reduction != Reduction::kAvg || kind.ranks == 1;
  if (sources.size() == 2 && destinations.size() <= 2 && finished) {  // streams, as long as they are
    return HWY_DYNAMIC_DISPATCH(run_combine)(kind.dtype, kind.reduction, n, sources[0], sources[1],
                                             destinations.front(), destinations.back());
  }
  reduce_in_blocks(kind, n, sources, destinations);
}

}  // namespace furrow::comm
#endif
