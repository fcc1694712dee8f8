#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "furrow/tensor/kernels/batch_norm.cc"
#include "furrow/tensor/kernels/targets.h"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on
#include <algorithm>
#include <cmath>
#include <vector>

#include "furrow/tensor/kernels/batch_norm.h"
#include "furrow/tensor/kernels/parallel.h"
#include "furrow/tensor/kernels/scratch.h"
#include "furrow/tensor/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {
namespace {

constexpr int64_t kBlockRows = 64;
constexpr int64_t kWorthAThread = 16384;

int64_t blocks_of(int64_t rows) { return (rows + kBlockRows - 1) / kBlockRows; }

// fn(block, first row, rows) for every block.
template <class Fn>
void for_blocks(int64_t rows, int64_t channels, int threads, const Fn& fn) {
  const int workers = rows * channels < 2 * kWorthAThread ? 1 : threads;
  parallel_for(workers, blocks_of(rows), [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) fn(b, b * kBlockRows, std::min(kBlockRows, rows - b * kBlockRows));
  });
}

// Mean of each channel over the block's rows, and the sum of squares around it.
template <class T>
void block_moments(const T* x, int64_t rows, int64_t channels, float* mean, float* squares) {
  sweep(0, channels, [&](int64_t c, auto at) HWY_ATTR {
    VF even = zero(), odd = zero();
    int64_t r = 0;
    for (; r + 2 <= rows; r += 2) {
      even = hn::Add(even, at.load(x + r * channels + c));
      odd = hn::Add(odd, at.load(x + (r + 1) * channels + c));
    }
    if (r < rows) even = hn::Add(even, at.load(x + r * channels + c));
    const VF m = hn::Div(hn::Add(even, odd), set(static_cast<float>(rows)));
    even = odd = zero();
    for (r = 0; r + 2 <= rows; r += 2) {
      const VF a = hn::Sub(at.load(x + r * channels + c), m);
      const VF b = hn::Sub(at.load(x + (r + 1) * channels + c), m);
      even = hn::MulAdd(a, a, even);
      odd = hn::MulAdd(b, b, odd);
    }
    if (r < rows) {
      const VF a = hn::Sub(at.load(x + r * channels + c), m);
      even = hn::MulAdd(a, a, even);
    }
    at.store(m, mean + c);
    at.store(hn::Add(even, odd), squares + c);
  });
}

// Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
template <class T>
void join_moments(const BatchMoments<T>& a, const float* parts) {
  for (int64_t c = 0; c < a.channels; ++c) {
    double mean = 0, squares = 0;
    int64_t count = 0;
    for (int64_t b = 0; b < blocks_of(a.rows); ++b) {
      const auto rows = static_cast<double>(std::min(kBlockRows, a.rows - count));
      const float* part = parts + b * 2 * a.channels;
      const double delta = part[c] - mean, before = static_cast<double>(count), all = before + rows;
      mean += delta * rows / all;
      squares += part[a.channels + c] + delta * delta * before * rows / all;
      count += static_cast<int64_t>(rows);
    }
    a.mean[c] = static_cast<float>(mean);
    a.variance[c] = static_cast<float>(squares / static_cast<double>(a.rows));
  }
}

template <bool kRelu, bool kResidual, class T>
void apply_rows(const BatchNormApply<T>& a, int64_t row, int64_t rows) {
  const int64_t n = a.channels;
  sweep(0, n, [&](int64_t c, auto at) HWY_ATTR {
    const VF scale = hn::Mul(at.load(a.gamma + c), at.load(a.rstd + c));
    const VF mean = at.load(a.mean + c), beta = at.load(a.beta + c);
    for (int64_t i = row * n + c, end = (row + rows) * n; i < end; i += n) {
      VF v = hn::MulAdd(hn::Sub(at.load(a.x + i), mean), scale, beta);
      if constexpr (kResidual) v = hn::Add(v, at.load(a.residual + i));
      if constexpr (kRelu) v = hn::IfThenElse(hn::Le(v, zero()), zero(), v);  // NaN stays
      at.store(v, a.y + i);
    }
  });
}

// Sums of g and of g (x - mean) over the block's rows; writes g where it is wanted.
template <class T>
void backward_sums(const BatchNormBackward<T>& a, int64_t row, int64_t rows, float* sums) {
  const int64_t n = a.channels;
  sweep(0, n, [&](int64_t c, auto at) HWY_ATTR {
    const VF mean = at.load(a.mean + c);
    VF sum = zero(), product = zero();
    for (int64_t i = row * n + c, end = (row + rows) * n; i < end; i += n) {
      VF g = at.load(a.dy + i);
      if (a.y) g = hn::IfThenElseZero(hn::Gt(at.load(a.y + i), zero()), g);
      if (a.g) at.store(g, a.g + i);
      sum = hn::Add(sum, g);
      product = hn::MulAdd(g, hn::Sub(at.load(a.x + i), mean), product);
    }
    at.store(sum, sums + c);
    at.store(product, sums + n + c);
  });
}

// dx = gamma rstd (g - mean(g) - (x - mean) rstd^2 mean(g (x - mean))), as u g + v x + w by channel.
struct Coefficients {
  float *u, *v, *w;
};

template <class T>
void join_sums(const BatchNormBackward<T>& a, const float* parts, const Coefficients& k) {
  const auto n = static_cast<double>(a.rows);
  for (int64_t c = 0; c < a.channels; ++c) {
    double sum = 0, product = 0;
    for (int64_t b = 0; b < blocks_of(a.rows); ++b) {
      sum += parts[b * 2 * a.channels + c];
      product += parts[(b * 2 + 1) * a.channels + c];
    }
    const double rstd = a.rstd[c], scale = a.gamma[c] * rstd, slope = -scale * rstd * rstd * product / n;
    a.dgamma[c] = static_cast<float>(product * rstd);
    a.dbeta[c] = static_cast<float>(sum);
    k.u[c] = static_cast<float>(scale);
    k.v[c] = static_cast<float>(slope);
    k.w[c] = static_cast<float>(-scale * sum / n);
  }
}

template <class T>
void backward_rows(const BatchNormBackward<T>& a, const Coefficients& k, int64_t row, int64_t rows) {
  const int64_t n = a.channels;
  const T* g = a.g ? a.g : a.dy;
  const bool masks = a.y != nullptr && a.g == nullptr;
  sweep(0, n, [&](int64_t c, auto at) HWY_ATTR {
    const VF u = at.load(k.u + c), v = at.load(k.v + c), w = at.load(k.w + c), mean = at.load(a.mean + c);
    for (int64_t i = row * n + c, end = (row + rows) * n; i < end; i += n) {
      VF here = at.load(g + i);
      if (masks) here = hn::IfThenElseZero(hn::Gt(at.load(a.y + i), zero()), here);
      const VF centred = hn::Sub(at.load(a.x + i), mean);
      at.store(hn::MulAdd(u, here, hn::MulAdd(v, centred, w)), a.dx + i);
    }
  });
}

template <class T>
void moments(const BatchMoments<T>& a, int threads) {
  ScratchScope scratch;
  float* parts = scratch.floats(blocks_of(a.rows) * 2 * a.channels);
  for_blocks(a.rows, a.channels, threads, [&](int64_t b, int64_t row, int64_t rows) {
    float* part = parts + b * 2 * a.channels;
    block_moments(a.x + row * a.channels, rows, a.channels, part, part + a.channels);
  });
  join_moments(a, parts);
}

template <class T>
void apply(const BatchNormApply<T>& a, int threads) {
  for_blocks(a.rows, a.channels, threads, [&](int64_t, int64_t row, int64_t rows) {
    if (a.relu) {
      a.residual ? apply_rows<true, true>(a, row, rows) : apply_rows<true, false>(a, row, rows);
    } else {
      a.residual ? apply_rows<false, true>(a, row, rows) : apply_rows<false, false>(a, row, rows);
    }
  });
}

template <class T>
void backward(const BatchNormBackward<T>& a, int threads) {
  ScratchScope scratch;
  float* parts = scratch.floats(blocks_of(a.rows) * 2 * a.channels);
  const Coefficients k{scratch.floats(a.channels), scratch.floats(a.channels), scratch.floats(a.channels)};
  for_blocks(a.rows, a.channels, threads, [&](int64_t b, int64_t row, int64_t rows) {
    backward_sums(a, row, rows, parts + b * 2 * a.channels);
  });
  join_sums(a, parts, k);
  for_blocks(a.rows, a.channels, threads,
             [&](int64_t, int64_t row, int64_t rows) { backward_rows(a, k, row, rows); });
}

}  // namespace

void run_moments_f32(const BatchMoments<float>& a, int threads) { moments(a, threads); }
void run_moments_bf16(const BatchMoments<bf16>& a, int threads) { moments(a, threads); }
void run_moments_f16(const BatchMoments<f16>& a, int threads) { moments(a, threads); }
void run_apply_f32(const BatchNormApply<float>& a, int threads) { apply(a, threads); }
void run_apply_bf16(const BatchNormApply<bf16>& a, int threads) { apply(a, threads); }
void run_apply_f16(const BatchNormApply<f16>& a, int threads) { apply(a, threads); }
void run_backward_f32(const BatchNormBackward<float>& a, int threads) { backward(a, threads); }
void run_backward_bf16(const BatchNormBackward<bf16>& a, int threads) { backward(a, threads); }
void run_backward_f16(const BatchNormBackward<f16>& a, int threads) { backward(a, threads); }

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace furrow::tensor::kernels {

#define FURROW_DISPATCH(name, run, Args, T) \
  HWY_EXPORT(run);                          \
  void name(const Args<T>& args, int threads) { HWY_DYNAMIC_DISPATCH(run)(args, threads); }
FURROW_DISPATCH(batch_moments, run_moments_f32, BatchMoments, float)
FURROW_DISPATCH(batch_moments, run_moments_bf16, BatchMoments, bf16)
FURROW_DISPATCH(batch_moments, run_moments_f16, BatchMoments, f16)
FURROW_DISPATCH(batch_norm_apply, run_apply_f32, BatchNormApply, float)
FURROW_DISPATCH(batch_norm_apply, run_apply_bf16, BatchNormApply, bf16)
FURROW_DISPATCH(batch_norm_apply, run_apply_f16, BatchNormApply, f16)
FURROW_DISPATCH(batch_norm_backward, run_backward_f32, BatchNormBackward, float)
FURROW_DISPATCH(batch_norm_backward, run_backward_bf16, BatchNormBackward, bf16)
FURROW_DISPATCH(batch_norm_backward, run_backward_f16, BatchNormBackward, f16)
#undef FURROW_DISPATCH

}  // namespace furrow::tensor::kernels
#endif
