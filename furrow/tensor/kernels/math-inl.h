// Vector functions of one argument; coefficients are minimax fits of ours, error bounds are tested.
#include "furrow/tensor/kernels/targets.h"
#if defined(FURROW_TENSOR_KERNELS_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FURROW_TENSOR_KERNELS_MATH_INL_H_
#undef FURROW_TENSOR_KERNELS_MATH_INL_H_
#else
#define FURROW_TENSOR_KERNELS_MATH_INL_H_
#endif

#include "furrow/tensor/kernels/simd-inl.h"

#if HWY_TARGET == HWY_AVX3
#include <immintrin.h>
#endif

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {

// exp(x) for x <= 0 (and NaN), at most 1.5 ulp; below the normal range the result is 0.
// x = n ln 2 + r, exp(r) = 1 + r + r^2 P(r), relative error of the polynomial 2^-28 on |r| <= ln(2) / 2.
HWY_INLINE VF exp_nonpositive(VF x) {
  const VF n = hn::Round(hn::Mul(x, set(1.44269504f)));
  VF r = hn::NegMulAdd(n, set(0.693359375f), x);
  r = hn::NegMulAdd(n, set(-2.12194440e-4f), r);
  VF p = set(1.381462e-03f);
  p = hn::MulAdd(p, r, set(8.368711e-03f));
  p = hn::MulAdd(p, r, set(4.166839e-02f));
  p = hn::MulAdd(p, r, set(1.6666521e-01f));
  p = hn::MulAdd(p, r, set(4.9999994e-01f));
  p = hn::MulAdd(p, hn::Mul(r, r), hn::Add(r, set(1.0f)));
#if HWY_TARGET == HWY_AVX3  // the same bits in one instruction
  const VF result(_mm512_scalef_ps(p.raw, n.raw));
#else
  const VI exponent = hn::ShiftLeft<23>(hn::Add(hn::ConvertTo(DI(), n), hn::Set(DI(), 127)));
  const VF result = hn::Mul(p, hn::BitCast(DF(), exponent));
#endif
  return hn::IfThenElse(hn::Lt(x, set(-87.33654f)), zero(), result);
}

struct ValueAndSlope {
  VF value, slope;
};

// GELU x Phi(x) and its derivative Phi(x) + x phi(x).
// Phi(-a) = exp(-a^2 / 2) M(a), a = |x|; M is a ratio of polynomials with positive coefficients (relative
// error 5e-9 on [0, 13.4]), so nothing cancels in the negative tail.  a^2 is carried in two parts.
HWY_INLINE ValueAndSlope gelu(VF x) {
  const VF a = hn::Min(hn::Abs(x), set(14.0f));
  VF p = set(0.004028609488159418f);
  p = hn::MulAdd(p, a, set(0.04004127159714699f));
  p = hn::MulAdd(p, a, set(0.18147683143615723f));
  p = hn::MulAdd(p, a, set(0.4359171390533447f));
  p = hn::MulAdd(p, a, set(0.5f));
  VF q = set(0.01009808573871851f);
  q = hn::MulAdd(q, a, set(0.10037587583065033f));
  q = hn::MulAdd(q, a, set(0.4648291766643524f));
  q = hn::MulAdd(q, a, set(1.1951926946640015f));
  q = hn::MulAdd(q, a, set(1.6697192192077637f));
  q = hn::MulAdd(q, a, set(1.0f));
  const VF half = set(-0.5f), square = hn::Mul(a, a), rest = hn::MulSub(a, a, square);
  VF e = exp_nonpositive(hn::Mul(square, half));
  e = hn::MulAdd(hn::Mul(rest, half), e, e);
  const VF lower = hn::Mul(e, hn::Div(p, q));
  const VF phi = hn::IfThenElse(hn::Gt(x, zero()), hn::Sub(set(1.0f), lower), lower);
  return {hn::Mul(x, phi), hn::MulAdd(hn::Mul(x, e), set(0.3989422804f), phi)};
}

// The tanh form, 0.5 x (1 + tanh(u)) = x / (1 + exp(-2 u)), u = sqrt(2 / pi) (x + 0.044715 x^3).
HWY_INLINE ValueAndSlope gelu_tanh(VF x) {
  const VF c1 = set(1.5957691216f), c3 = set(0.0713548162726f);
  const VF a = hn::Min(hn::Abs(x), set(40.0f)), square = hn::Mul(a, a);
  const VF w = hn::Mul(a, hn::MulAdd(c3, square, c1));
  const VF e = exp_nonpositive(hn::Neg(w));
  const VF upper = hn::Div(set(1.0f), hn::Add(set(1.0f), e)), lower = hn::Mul(e, upper);
  const VF s = hn::IfThenElse(hn::Gt(x, zero()), upper, lower);
  const VF du = hn::MulAdd(hn::Mul(set(3.0f), c3), square, c1);
  return {hn::Mul(x, s), hn::MulAdd(hn::Mul(x, hn::Mul(upper, lower)), du, s)};
}

// 1 / (1 + exp(-x)), at most 3 ulp of the result while that is a normal number.
HWY_INLINE VF sigmoid(VF x) {
  const VF e = exp_nonpositive(hn::Neg(hn::Abs(x))), upper = hn::Div(set(1.0f), hn::Add(set(1.0f), e));
  return hn::IfThenElse(hn::Lt(x, zero()), hn::Mul(e, upper), upper);
}

// tanh(x), at most 3 ulp.  Below 0.625 a polynomial, x + x^3 P(x^2) with a relative error of 2e-9, because
// (1 - e) / (1 + e), e = exp(-2 |x|), cancels there.
HWY_INLINE VF tanh(VF x) {
  const VF a = hn::Abs(x), square = hn::Mul(x, x);
  VF p = set(-0.005717045161873102f);
  p = hn::MulAdd(p, square, set(0.02065058797597885f));
  p = hn::MulAdd(p, square, set(-0.05374349653720856f));
  p = hn::MulAdd(p, square, set(0.13331490755081177f));
  p = hn::MulAdd(p, square, set(-0.3333328366279602f));
  const VF inner = hn::MulAdd(hn::Mul(p, square), x, x);
  const VF e = exp_nonpositive(hn::Mul(set(-2.0f), a));
  const VF outer = hn::CopySign(hn::Div(hn::Sub(set(1.0f), e), hn::Add(set(1.0f), e)), x);
  return hn::IfThenElse(hn::Lt(a, set(0.625f)), inner, outer);
}

// x sigmoid(x).
HWY_INLINE ValueAndSlope silu(VF x) {
  const VF s = sigmoid(x), y = hn::Mul(x, s);
  return {y, hn::MulAdd(y, hn::Sub(set(1.0f), s), s)};
}

// log(1 + exp(x)) = max(x, 0) + log(1 + e), e = exp(-|x|), whose logarithm is 2 atanh(e / (2 + e)): the first
// eight terms of its series are within 2e-9 of it where e <= 1.
HWY_INLINE ValueAndSlope softplus(VF x) {
  const VF e = exp_nonpositive(hn::Neg(hn::Abs(x)));
  const VF z = hn::Div(e, hn::Add(set(2.0f), e)), square = hn::Mul(z, z);
  VF p = set(1.0f / 15);
  for (const float term : {1.0f / 13, 1.0f / 11, 1.0f / 9, 1.0f / 7, 1.0f / 5, 1.0f / 3, 1.0f})
    p = hn::MulAdd(p, square, set(term));
  const VF upper = hn::Div(set(1.0f), hn::Add(set(1.0f), e)),
           above = hn::IfThenElse(hn::Le(x, zero()), zero(), x);
  return {hn::MulAdd(hn::Add(z, z), p, above), hn::IfThenElse(hn::Lt(x, zero()), hn::Mul(e, upper), upper)};
}

// NaN stays NaN.
HWY_INLINE VF relu(VF x) { return hn::IfThenElse(hn::Le(x, zero()), zero(), x); }

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#endif
