#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "furrow/tensor/kernels/half.cc"
#include "furrow/tensor/kernels/targets.h"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on
#include "furrow/tensor/kernels/half.h"
#include "furrow/tensor/kernels/parallel.h"
#include "furrow/tensor/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {
namespace {

constexpr int64_t kWorthAThread = 1 << 16;  // elements

template <class From, class To>
void run(int64_t n, const From* from, To* to, int threads) {
  parallel_for(team_for(n, kWorthAThread, threads), n, [&](int64_t begin, int64_t end) {
    sweep(begin, end, [&](int64_t i, auto at) HWY_ATTR { at.store(at.load(from + i), to + i); });
  });
}

template <class T>
void run_add(int64_t n, const T* a, const T* b, T* out, int threads) {
  parallel_for(team_for(n, kWorthAThread, threads), n, [&](int64_t begin, int64_t end) {
    sweep(begin, end,
          [&](int64_t i, auto at) HWY_ATTR { at.store(hn::Add(at.load(a + i), at.load(b + i)), out + i); });
  });
}

}  // namespace

void widen_bf16(int64_t n, const bf16* from, float* to, int threads) { run(n, from, to, threads); }
void widen_f16(int64_t n, const f16* from, float* to, int threads) { run(n, from, to, threads); }
void narrow_bf16(int64_t n, const float* from, bf16* to, int threads) { run(n, from, to, threads); }
void narrow_f16(int64_t n, const float* from, f16* to, int threads) { run(n, from, to, threads); }
void add_bf16(int64_t n, const bf16* a, const bf16* b, bf16* out, int threads) {
  run_add(n, a, b, out, threads);
}
void add_f16(int64_t n, const f16* a, const f16* b, f16* out, int threads) { run_add(n, a, b, out, threads); }

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace furrow::tensor::kernels {

HWY_EXPORT(widen_bf16);
HWY_EXPORT(widen_f16);
HWY_EXPORT(narrow_bf16);
HWY_EXPORT(narrow_f16);
HWY_EXPORT(add_bf16);
HWY_EXPORT(add_f16);
void convert(int64_t n, const bf16* from, float* to, int threads) {
  HWY_DYNAMIC_DISPATCH(widen_bf16)(n, from, to, threads);
}
void convert(int64_t n, const f16* from, float* to, int threads) {
  HWY_DYNAMIC_DISPATCH(widen_f16)(n, from, to, threads);
}
void convert(int64_t n, const float* from, bf16* to, int threads) {
  HWY_DYNAMIC_DISPATCH(narrow_bf16)(n, from, to, threads);
}
void convert(int64_t n, const float* from, f16* to, int threads) {
  HWY_DYNAMIC_DISPATCH(narrow_f16)(n, from, to, threads);
}
void add(int64_t n, const bf16* a, const bf16* b, bf16* out, int threads) {
  HWY_DYNAMIC_DISPATCH(add_bf16)(n, a, b, out, threads);
}
void add(int64_t n, const f16* a, const f16* b, f16* out, int threads) {
  HWY_DYNAMIC_DISPATCH(add_f16)(n, a, b, out, threads);
}

}  // namespace furrow::tensor::kernels
#endif
