// What several optimizer kernels compute alike: Adam's moments, and sums of squares in 16 double lanes.
#include "furrow/tensor/kernels/targets.h"
// Highway's pattern: this guard toggles with each target.
#if defined(FURROW_TENSOR_KERNELS_MOMENTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FURROW_TENSOR_KERNELS_MOMENTS_INL_H_
#undef FURROW_TENSOR_KERNELS_MOMENTS_INL_H_
#else
#define FURROW_TENSOR_KERNELS_MOMENTS_INL_H_
#endif

#include <cmath>
#include <cstdint>

#include "furrow/tensor/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {

HWY_INLINE VF rounded(double x) { return set(static_cast<float>(x)); }

// Adam's moments with the coefficients of one step (kernels/optimizer.h), formed in double.  `Args` has
// grad_scale, beta1, beta2, eps and step.
struct Moments {
  template <class Args>
  explicit Moments(const Args& a)
      : grad_scale(set(a.grad_scale)),
        beta1(rounded(a.beta1)),
        rest1(rounded(1 - a.beta1)),
        beta2(rounded(a.beta2)),
        rest2(rounded(1 - a.beta2)),
        inverse_root2(rounded(1 / std::sqrt(1 - std::pow(a.beta2, static_cast<double>(a.step))))),
        eps(rounded(a.eps)) {}

  template <class Args>
  static double correction1(const Args& a) {  // of the first moment, which is divided by it
    return 1 - std::pow(a.beta1, static_cast<double>(a.step));
  }
  VF first(VF m, VF g) const { return hn::MulAdd(beta1, m, hn::Mul(rest1, g)); }
  VF second(VF v, VF g) const { return hn::MulAdd(beta2, v, hn::Mul(hn::Mul(rest2, g), g)); }
  VF scale(VF root) const { return hn::MulAdd(root, inverse_root2, eps); }  // of the root of the second

  VF grad_scale, beta1, rest1, beta2, rest2, inverse_root2, eps;
};

using DD = hn::CappedTag<double, 8>;
using DHalf = hn::Rebind<float, DD>;
constexpr int kDoubles = static_cast<int>(hn::MaxLanes(DD()));
constexpr int kSums = 16 / kDoubles;  // vectors of doubles that are 16 lanes

// The sum of 16 lanes, by a fixed tree.
HWY_INLINE double join(double* lanes) {
  for (int half = 8; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  }
  return lanes[0];
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#endif
