#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "furrow/base/convert.cc"
// Vectors whose size the compiler does not know, and targets between the baseline and AVX2, are left out.
#ifndef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS \
  (HWY_SSSE3 | HWY_SSE4 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#endif
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on
#include "furrow/base/convert.h"

#include <hwy/highway.h>

#include <cstring>

#include "furrow/base/error.h"

HWY_BEFORE_NAMESPACE();
namespace furrow {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

void run_scale(const uint8_t* from, size_t count, float scale, float shift, float* to) {
  const hn::ScalableTag<float> d;
  const hn::Rebind<int32_t, decltype(d)> wide;
  const hn::Rebind<uint8_t, decltype(d)> narrow;
  const size_t lanes = hn::Lanes(d);
  const auto factor = hn::Set(d, scale), summand = hn::Set(d, shift);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto value = hn::ConvertTo(d, hn::PromoteTo(wide, hn::LoadU(narrow, from + i)));
    hn::StoreU(hn::Add(hn::Mul(value, factor), summand), d, to + i);
  }
  for (; i < count; ++i) to[i] = static_cast<float>(from[i]) * scale + shift;
}

template <class D, class Narrow>
HWY_INLINE auto widened(D d, const Narrow* from) {
  const hn::Rebind<Narrow, D> narrow;
  const hn::Rebind<uint32_t, D> middle;
  if constexpr (sizeof(Narrow) == 4) {
    return hn::PromoteTo(d, hn::LoadU(narrow, from));
  } else {
    return hn::PromoteTo(d, hn::PromoteTo(middle, hn::LoadU(narrow, from)));
  }
}

template <class Narrow>
void widen_as(const std::byte* bytes, size_t count, int64_t* to) {
  const hn::ScalableTag<uint64_t> d;
  const size_t lanes = hn::Lanes(d);
  const auto* const from = reinterpret_cast<const Narrow*>(bytes);
  auto* const out = reinterpret_cast<uint64_t*>(to);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) hn::StoreU(widened(d, from + i), d, out + i);
  for (; i < count; ++i) {
    Narrow number;
    std::memcpy(&number, from + i, sizeof(number));
    to[i] = number;
  }
}

void run_widen(const std::byte* bytes, size_t width, size_t count, int64_t* to) {
  if (width == 1) return widen_as<uint8_t>(bytes, count, to);
  if (width == 2) return widen_as<uint16_t>(bytes, count, to);
  widen_as<uint32_t>(bytes, count, to);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace furrow
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace furrow {
namespace {
HWY_EXPORT(run_scale);
HWY_EXPORT(run_widen);
}  // namespace

void scale_bytes(std::span<const uint8_t> bytes, float scale, float shift, std::span<float> out) {
  FURROW_CHECK(out.size() == bytes.size(), "an output of another size");
  HWY_DYNAMIC_DISPATCH(run_scale)(bytes.data(), bytes.size(), scale, shift, out.data());
}

void widen(std::span<const std::byte> numbers, size_t width, std::span<int64_t> out) {
  FURROW_CHECK(width == 1 || width == 2 || width == 4, "numbers of another width");
  FURROW_CHECK(numbers.size() / width >= out.size(), "fewer numbers than asked for");
  HWY_DYNAMIC_DISPATCH(run_widen)(numbers.data(), width, out.size(), out.data());
}

}  // namespace furrow
#endif
