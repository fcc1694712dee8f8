#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "furrow/tensor/kernels/rms_norm.cc"
#include "furrow/tensor/kernels/targets.h"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on
#include <algorithm>
#include <cmath>

#include "furrow/tensor/kernels/blocks.h"
#include "furrow/tensor/kernels/fetch-inl.h"
#include "furrow/tensor/kernels/parallel.h"
#include "furrow/tensor/kernels/rms_norm.h"
#include "furrow/tensor/kernels/scratch.h"
#include "furrow/tensor/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {
namespace {

int team(int64_t elements, int threads) { return team_for(elements, 16384, threads); }

const auto mul_parts = [](VF a, VF b) HWY_ATTR { return hn::Mul(a, b); };
const auto mul_add_parts = [](VF a, VF b, VF c) HWY_ATTR { return hn::MulAdd(a, b, c); };

void normalise_row(const RmsNormForward& a, int64_t row) {
  const int64_t n = a.columns;
  const float* x = a.x + row * n;
  F16 sum = set16(0);
  sweep16(n, 0, [&](int64_t i, auto at) HWY_ATTR {
    fetch(i + kElementsAhead, x, a.y + row * n);
    const F16 v = at.load(x + i);
    sum = map16(mul_add_parts, v, v, sum);
  });
  const float rrms = 1.0f / std::sqrt(sum16(sum) / static_cast<float>(n) + a.eps);
  if (a.rrms) a.rrms[row] = rrms;
  const VF r = set(rrms);
  sweep(0, n, [&](int64_t i, auto at) HWY_ATTR {
    at.store(hn::Mul(hn::Mul(at.load(x + i), r), at.load(a.gamma + i)), a.y + row * n + i);
  });
}

// dx = rrms (g - xn mean(g xn)), g = dy gamma, xn the normalised row; adds to gamma's sums.
void backward_row(const RmsNormBackward& a, int64_t row, float* dgamma) {
  const int64_t n = a.columns;
  const float* x = a.x + row * n;
  const float* dy = a.dy + row * n;
  const VF rrms = set(a.rrms[row]);
  const auto normal = [&](VF v) HWY_ATTR { return hn::Mul(v, rrms); };
  F16 sum_gx = set16(0);
  sweep16(n, 0, [&](int64_t i, auto at) HWY_ATTR {
    fetch(i + kElementsAhead, x, dy, a.dx + row * n);
    const F16 xn = map16(normal, at.load(x + i)), d = at.load(dy + i);
    sum_gx = map16(mul_add_parts, map16(mul_parts, d, at.load(a.gamma + i)), xn, sum_gx);
    at.store(map16(mul_add_parts, d, xn, at.load(dgamma + i)), dgamma + i);
  });
  const VF mean_gx = set(sum16(sum_gx) / static_cast<float>(n));
  sweep(0, n, [&](int64_t i, auto at) HWY_ATTR {
    const VF g = hn::Mul(at.load(dy + i), at.load(a.gamma + i)), xn = normal(at.load(x + i));
    VF dx = hn::Mul(rrms, hn::NegMulAdd(xn, mean_gx, g));
    if (a.add) dx = hn::Add(dx, at.load(a.add + row * n + i));
    at.store(dx, a.dx + row * n + i);
  });
}

}  // namespace

void run_rms_norm_forward(const RmsNormForward& a, int threads) {
  parallel_for(team(a.rows * a.columns, threads), a.rows, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) normalise_row(a, row);
  });
}

void run_rms_norm_backward(const RmsNormBackward& a, int threads) {
  ScratchScope scratch;
  const int64_t blocks = (a.rows + kChainRows - 1) / kChainRows;
  float* parts = scratch.floats(blocks * a.columns);
  parallel_for(team(a.rows * a.columns, threads), blocks, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      float* sums = parts + b * a.columns;
      std::memset(sums, 0, static_cast<size_t>(a.columns) * sizeof(float));
      for (int64_t row = b * kChainRows; row < std::min((b + 1) * kChainRows, a.rows); ++row)
        backward_row(a, row, sums);
    }
  });
  sweep(0, a.columns, [&](int64_t i, auto at) HWY_ATTR {
    VF sum = zero();
    for (int64_t b = 0; b < blocks; ++b) sum = hn::Add(sum, at.load(parts + b * a.columns + i));
    at.store(sum, a.dgamma + i);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace furrow::tensor::kernels {

HWY_EXPORT(run_rms_norm_forward);
HWY_EXPORT(run_rms_norm_backward);
void rms_norm_forward(const RmsNormForward& args, int threads) {
  HWY_DYNAMIC_DISPATCH(run_rms_norm_forward)(args, threads);
}
void rms_norm_backward(const RmsNormBackward& args, int threads) {
  HWY_DYNAMIC_DISPATCH(run_rms_norm_backward)(args, threads);
}

}  // namespace furrow::tensor::kernels
#endif
