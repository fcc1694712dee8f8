#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "furrow/preprocess/resample.cc"
// Vectors whose size the compiler does not know, and targets between the baseline and AVX2, are left out.
#ifndef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS \
  (HWY_SSSE3 | HWY_SSE4 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#endif
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on
#include "furrow/preprocess/resample.h"

#include <hwy/highway.h>

#include <algorithm>

#include "furrow/base/convert.h"
#include "furrow/base/error.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::preprocess {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

// A pixel is a vector of four, whose last one belongs to its neighbour; or three of one.
void run_row(const float* pixels, const Taps& taps, float* out) {
  const hn::CappedTag<float, 4> d;
  for (size_t i = 0; i < taps.outputs(); ++i) {
    const auto weights = taps.weights_of(i);
    for (size_t c = 0; c < 3; c += hn::Lanes(d)) {
      const float* from = pixels + taps.first[i] * 3 + c;
      auto sum = hn::Zero(d);
      for (const float weight : weights) {
        sum = hn::Add(sum, hn::Mul(hn::Set(d, weight), hn::LoadU(d, from)));
        from += 3;
      }
      hn::StoreU(sum, d, out + i * 3 + c);
    }
  }
}

void run_blend(const float* rows, size_t stride, std::span<const float> weights, std::span<uint8_t> bytes) {
  const hn::ScalableTag<float> d;
  const hn::Rebind<int32_t, decltype(d)> whole;
  const hn::Rebind<uint8_t, decltype(d)> narrow;
  const size_t lanes = hn::Lanes(d);
  const auto half = hn::Set(d, 0.5f), least = hn::Zero(d), most = hn::Set(d, 255.0f);
  size_t i = 0;
  for (; i + lanes <= bytes.size(); i += lanes) {
    auto sum = hn::Zero(d);
    for (size_t k = 0; k < weights.size(); ++k)
      sum = hn::Add(sum, hn::Mul(hn::Set(d, weights[k]), hn::LoadU(d, rows + k * stride + i)));
    const auto value = hn::Min(hn::Max(hn::Add(sum, half), least), most);
    hn::StoreU(hn::DemoteTo(narrow, hn::ConvertTo(whole, value)), narrow, bytes.data() + i);
  }
  for (; i < bytes.size(); ++i) {
    float sum = 0;
    for (size_t k = 0; k < weights.size(); ++k) sum += weights[k] * rows[k * stride + i];
    bytes[i] = static_cast<uint8_t>(std::clamp(sum + 0.5f, 0.0f, 255.0f));
  }
}

void run_split(std::span<const uint8_t> pixels, uint8_t* planes, size_t plane) {
  const hn::ScalableTag<uint8_t> d;
  const size_t lanes = hn::Lanes(d), count = pixels.size() / 3;
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    hn::VFromD<decltype(d)> red, green, blue;
    hn::LoadInterleaved3(d, pixels.data() + i * 3, red, green, blue);
    hn::StoreU(red, d, planes + i);
    hn::StoreU(green, d, planes + plane + i);
    hn::StoreU(blue, d, planes + 2 * plane + i);
  }
  for (; i < count; ++i) {
    for (size_t c = 0; c < 3; ++c) planes[c * plane + i] = pixels[i * 3 + c];
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace furrow::preprocess
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace furrow::preprocess {
namespace {
HWY_EXPORT(run_row);
HWY_EXPORT(run_blend);
HWY_EXPORT(run_split);
}  // namespace

void resample_row(std::span<const uint8_t> pixels, const Taps& taps, std::span<float> scratch,
                  std::span<float> out) {
  FURROW_CHECK(scratch.size() > pixels.size() && out.size() > taps.outputs() * 3,
               "no room for the last vector");
  scale_bytes(pixels, 1, 0, scratch.first(pixels.size()));
  HWY_DYNAMIC_DISPATCH(run_row)(scratch.data(), taps, out.data());
}

void blend_rows(const float* rows, size_t stride, std::span<const float> weights, std::span<uint8_t> bytes) {
  HWY_DYNAMIC_DISPATCH(run_blend)(rows, stride, weights, bytes);
}

void split_channels(std::span<const uint8_t> pixels, uint8_t* planes, size_t plane) {
  HWY_DYNAMIC_DISPATCH(run_split)(pixels, planes, plane);
}

}  // namespace furrow::preprocess
#endif
