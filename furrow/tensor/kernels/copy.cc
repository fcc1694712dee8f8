#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "furrow/tensor/kernels/copy.cc"
#include "furrow/tensor/kernels/targets.h"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on
#include <hwy/cache_control.h>

#include <algorithm>
#include <cstring>

#include "furrow/tensor/kernels/copy.h"
#include "furrow/tensor/kernels/parallel.h"
#include "furrow/tensor/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {
namespace {

constexpr size_t kLine = 64;               // bytes
constexpr size_t kLong = size_t{1} << 18;  // bytes; a shorter copy fits a cache with room to spare

// Whole lines of `to`, which begins one.
void stream_lines(const std::byte* from, std::byte* to, size_t lines) {
  const hn::ScalableTag<uint8_t> d;
  const auto* in = reinterpret_cast<const uint8_t*>(from);
  auto* out = reinterpret_cast<uint8_t*>(to);
  const size_t step = hn::Lanes(d), bytes = lines * kLine;
  size_t i = 0;
  for (; i + 4 * step <= bytes; i += 4 * step) {
    const auto a = hn::LoadU(d, in + i), b = hn::LoadU(d, in + i + step);
    const auto e = hn::LoadU(d, in + i + 2 * step), f = hn::LoadU(d, in + i + 3 * step);
    hn::Stream(a, d, out + i);
    hn::Stream(b, d, out + i + step);
    hn::Stream(e, d, out + i + 2 * step);
    hn::Stream(f, d, out + i + 3 * step);
  }
  for (; i < bytes; i += step) hn::Stream(hn::LoadU(d, in + i), d, out + i);
  hwy::FlushStream();
}

}  // namespace

void run_copy_past_cache(std::span<const std::byte> from, std::byte* to, int threads) {
  const size_t into_line = reinterpret_cast<uintptr_t>(to) % kLine;
  const size_t head = std::min(from.size(), (kLine - into_line) % kLine);
  const size_t lines = from.size() < kLong ? 0 : (from.size() - head) / kLine;
  if (lines > 0) {
    parallel_for(threads, static_cast<int64_t>(lines), [&](int64_t begin, int64_t end) {
      const size_t at = head + static_cast<size_t>(begin) * kLine;
      stream_lines(from.data() + at, to + at, static_cast<size_t>(end - begin));
    });
    if (head > 0) std::memcpy(to, from.data(), head);
  }
  const size_t done = lines > 0 ? head + lines * kLine : 0;
  if (done < from.size()) std::memcpy(to + done, from.data() + done, from.size() - done);
}

void run_transpose(int64_t rows, int64_t columns, const float* x, float* y) {
  transpose_block(x, columns, rows, columns, y, rows);
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace furrow::tensor::kernels {

HWY_EXPORT(run_copy_past_cache);
HWY_EXPORT(run_transpose);
void copy_past_cache(std::span<const std::byte> from, std::byte* to, int threads) {
  HWY_DYNAMIC_DISPATCH(run_copy_past_cache)(from, to, threads);
}
void transpose(int64_t rows, int64_t columns, const float* x, float* y) {
  HWY_DYNAMIC_DISPATCH(run_transpose)(rows, columns, x, y);
}

}  // namespace furrow::tensor::kernels
#endif
