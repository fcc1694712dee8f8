// Fetching what a loop over memory reads later.
#include "furrow/tensor/kernels/targets.h"
// Highway's pattern: this guard toggles with each target.
#if defined(FURROW_TENSOR_KERNELS_FETCH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FURROW_TENSOR_KERNELS_FETCH_INL_H_
#undef FURROW_TENSOR_KERNELS_FETCH_INL_H_
#else
#define FURROW_TENSOR_KERNELS_FETCH_INL_H_
#endif

#include <cstdint>

#include "furrow/tensor/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {

// How far ahead: a processor by itself looks no further than the end of a page of 4 KiB, and begins anew
// behind it.
constexpr int64_t kElementsAhead = 512;

// The lines of these elements, which may lie behind the arrays' ends: a pointer may not, so the address is a
// number.
template <class... T>
HWY_INLINE void fetch(int64_t i, const T*... x) {
  (hwy::Prefetch(
       reinterpret_cast<const char*>(reinterpret_cast<uintptr_t>(x) + static_cast<uintptr_t>(i) * sizeof(T))),
   ...);
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#endif
