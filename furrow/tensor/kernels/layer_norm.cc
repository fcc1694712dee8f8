#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "furrow/tensor/kernels/layer_norm.cc"
#include "furrow/tensor/kernels/targets.h"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on
#include <algorithm>
#include <cmath>

#include "furrow/tensor/kernels/blocks.h"
#include "furrow/tensor/kernels/fetch-inl.h"
#include "furrow/tensor/kernels/layer_norm.h"
#include "furrow/tensor/kernels/parallel.h"
#include "furrow/tensor/kernels/scratch.h"
#include "furrow/tensor/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {
namespace {

constexpr int64_t kWorthAThread = 16384;

const auto add_parts = [](VF a, VF b) HWY_ATTR { return hn::Add(a, b); };
const auto mul_parts = [](VF a, VF b) HWY_ATTR { return hn::Mul(a, b); };
const auto mul_add_parts = [](VF a, VF b, VF c) HWY_ATTR { return hn::MulAdd(a, b, c); };

// Fetches rows that come, and where theirs of `y` go.
float row_mean(const float* x, int64_t n, const float* y) {
  F16 sum = set16(0);
  sweep16(n, 0, [&](int64_t i, auto at) HWY_ATTR {
    fetch(i + kElementsAhead, x, y);
    sum = add16(sum, at.load(x + i));
  });
  return sum16(sum) / static_cast<float>(n);
}

// Mean of (x - mean)^2; absent lanes hold `mean`, so they add nothing.
float row_variance(const float* x, int64_t n, float mean) {
  F16 sum = set16(0);
  sweep16(n, mean, [&](int64_t i, auto at) HWY_ATTR {
    const F16 d = map16([&](VF v) HWY_ATTR { return hn::Sub(v, set(mean)); }, at.load(x + i));
    sum = map16(mul_add_parts, d, d, sum);
  });
  return sum16(sum) / static_cast<float>(n);
}

void normalise_row(const LayerNormForward& a, int64_t row) {
  const int64_t n = a.columns;
  const float* x = a.x + row * n;
  if (a.residual) {
    float* sum = a.sum + row * n;
    const float* residual = a.residual + row * n;
    sweep(0, n, [&](int64_t i, auto at) HWY_ATTR {
      at.store(hn::Add(at.load(x + i), at.load(residual + i)), sum + i);
    });
    x = sum;
  }
  const float mean = row_mean(x, n, a.y + row * n);
  const float rstd = 1.0f / std::sqrt(row_variance(x, n, mean) + a.eps);
  if (a.mean) a.mean[row] = mean;
  if (a.rstd) a.rstd[row] = rstd;
  const VF m = set(mean), r = set(rstd);
  sweep(0, n, [&](int64_t i, auto at) HWY_ATTR {
    const VF normal = hn::Mul(hn::Sub(at.load(x + i), m), r);
    const VF beta = a.beta ? at.load(a.beta + i) : zero();
    at.store(hn::MulAdd(normal, at.load(a.gamma + i), beta), a.y + row * n + i);
  });
}

// dx = rstd (g - mean(g) - xn mean(g xn)), g = dy gamma, xn the normalised row; adds to the parameters' sums.
void backward_row(const LayerNormBackward& a, int64_t row, float* dgamma, float* dbeta) {
  const int64_t n = a.columns;
  const float* x = a.x + row * n;
  const float* dy = a.dy + row * n;
  const VF mean = set(a.mean[row]), rstd = set(a.rstd[row]);
  const auto normal = [&](VF v) HWY_ATTR { return hn::Mul(hn::Sub(v, mean), rstd); };
  F16 sum_g = set16(0), sum_gx = set16(0);
  sweep16(n, 0, [&](int64_t i, auto at) HWY_ATTR {
    fetch(i + kElementsAhead, x, dy, a.dx + row * n);
    const F16 xn = map16(normal, at.load(x + i)), d = at.load(dy + i);
    const F16 g = map16(mul_parts, d, at.load(a.gamma + i));
    sum_g = add16(sum_g, g);
    sum_gx = map16(mul_add_parts, g, xn, sum_gx);
    at.store(map16(mul_add_parts, d, xn, at.load(dgamma + i)), dgamma + i);
    at.store(add16(at.load(dbeta + i), d), dbeta + i);
  });
  const VF mean_g = set(sum16(sum_g) / static_cast<float>(n)),
           mean_gx = set(sum16(sum_gx) / static_cast<float>(n));
  sweep(0, n, [&](int64_t i, auto at) HWY_ATTR {
    const VF g = hn::Mul(at.load(dy + i), at.load(a.gamma + i)), xn = normal(at.load(x + i));
    VF dx = hn::Mul(rstd, hn::NegMulAdd(xn, mean_gx, hn::Sub(g, mean_g)));
    if (a.add) dx = hn::Add(dx, at.load(a.add + row * n + i));
    at.store(dx, a.dx + row * n + i);
  });
}

void sum_in_order(const float* parts, int64_t count, int64_t stride, int64_t n, float* out) {
  sweep(0, n, [&](int64_t i, auto at) HWY_ATTR {
    VF sum = zero();
    for (int64_t p = 0; p < count; ++p) sum = hn::Add(sum, at.load(parts + p * stride + i));
    at.store(sum, out + i);
  });
}

}  // namespace

void run_layer_norm_forward(const LayerNormForward& a, int threads) {
  parallel_for(team_for(a.rows * a.columns, kWorthAThread, threads), a.rows, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) normalise_row(a, row);
  });
}

void run_layer_norm_backward(const LayerNormBackward& a, int threads) {
  ScratchScope scratch;
  const int64_t blocks = (a.rows + kChainRows - 1) / kChainRows, stride = 2 * a.columns;
  float* parts = scratch.floats(blocks * stride);
  parallel_for(team_for(a.rows * a.columns, kWorthAThread, threads), blocks, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      float* sums = parts + b * stride;
      std::memset(sums, 0, static_cast<size_t>(stride) * sizeof(float));
      for (int64_t row = b * kChainRows; row < std::min((b + 1) * kChainRows, a.rows); ++row) {
        backward_row(a, row, sums, sums + a.columns);
      }
    }
  });
  sum_in_order(parts, blocks, stride, a.columns, a.dgamma);
  if (a.dbeta) sum_in_order(parts + a.columns, blocks, stride, a.columns, a.dbeta);
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace furrow::tensor::kernels {

HWY_EXPORT(run_layer_norm_forward);
HWY_EXPORT(run_layer_norm_backward);
void layer_norm_forward(const LayerNormForward& args, int threads) {
  HWY_DYNAMIC_DISPATCH(run_layer_norm_forward)(args, threads);
}
void layer_norm_backward(const LayerNormBackward& args, int threads) {
  HWY_DYNAMIC_DISPATCH(run_layer_norm_backward)(args, threads);
}

}  // namespace furrow::tensor::kernels
#endif
