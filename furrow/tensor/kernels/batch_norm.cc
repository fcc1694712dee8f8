#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "furrow/tensor/kernels/batch_norm.cc"
#include "furrow/tensor/kernels/targets.h"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on
#include <algorithm>
#include <type_traits>

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

// Whoever goes through numbers that do not fit into a cache finds there what the one before saw last: two
// such passes go opposite ways.
enum class Way : uint8_t { kForth, kBack };

// fn(block, first row, rows) for every block.
template <class Fn>
void for_blocks(Way way, int64_t rows, int64_t channels, int threads, const Fn& fn) {
  const int workers = team_for(rows * channels, kWorthAThread, threads);
  parallel_for(workers, blocks_of(rows), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = way == Way::kForth ? i : begin + end - 1 - i;
      fn(b, b * kBlockRows, std::min(kBlockRows, rows - b * kBlockRows));
    }
  });
}

// Two numbers of each channel that a block leaves, [2][channels, filled up to whole vectors of doubles], in
// which blocks are joined.
using DD = hn::CappedTag<double, 8>;
using VD = hn::Vec<DD>;
constexpr int64_t kDoubles = static_cast<int64_t>(hn::MaxLanes(DD()));
int64_t padded(int64_t channels) { return (channels + kDoubles - 1) / kDoubles * kDoubles; }

HWY_INLINE VD doubles(double x) { return hn::Set(DD(), x); }
HWY_INLINE VD load_doubles(const float* p) {
  return hn::PromoteTo(DD(), hn::LoadU(hn::Rebind<float, DD>(), p));
}

// take(channel, first, second) of the two numbers of every lane that is a channel.
template <class Take>
void for_lanes(int64_t channels, int64_t from, VD first, VD second, const Take& take) {
  double firsts[kDoubles], seconds[kDoubles];
  hn::StoreU(first, DD(), firsts);
  hn::StoreU(second, DD(), seconds);
  for (int64_t l = 0; l < std::min(kDoubles, channels - from); ++l) take(from + l, firsts[l], seconds[l]);
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
  const int64_t n = padded(a.channels);
  for (int64_t c = 0; c < n; c += kDoubles) {
    VD mean = hn::Zero(DD()), squares = hn::Zero(DD());
    int64_t count = 0;
    for (const float* part = parts + c; count < a.rows; part += 2 * n) {
      const int64_t rows = std::min(kBlockRows, a.rows - count);
      const VD here = doubles(static_cast<double>(rows)), before = doubles(static_cast<double>(count));
      const VD all = doubles(static_cast<double>(count + rows));
      const VD delta = hn::Sub(load_doubles(part), mean);
      const VD between = hn::Div(hn::Mul(hn::Mul(hn::Mul(delta, delta), before), here), all);
      mean = hn::Add(mean, hn::Div(hn::Mul(delta, here), all));
      squares = hn::Add(squares, hn::Add(load_doubles(part + n), between));
      count += rows;
    }
    for_lanes(a.channels, c, mean, squares, [&](int64_t channel, double m, double s) {
      a.mean[channel] = static_cast<float>(m);
      a.variance[channel] = static_cast<float>(s / static_cast<double>(a.rows));
    });
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

// By what it is known which numbers the ReLU of forward let through.
enum class Gate : uint8_t { kNone, kOutput, kNorm };

template <class T>
HWY_INLINE VF as_written(VF v) {
  if constexpr (std::is_same_v<T, float>) {
    return v;
  } else {
    const T* type = nullptr;
    return widen(narrow(v, type), type);
  }
}

// dy where the gate was open.
template <Gate kGate, class T>
struct Gated {
  const BatchNormBackward<T>& a;
  VF scale, beta;

  template <class Access>
  HWY_INLINE Gated(const BatchNormBackward<T>& args, int64_t c, const Access& at)
      : a(args), scale(zero()), beta(zero()) {
    if constexpr (kGate == Gate::kNorm) {
      scale = hn::Mul(at.load(a.gamma + c), at.load(a.rstd + c));
      beta = at.load(a.beta + c);
    }
  }
  template <class Access>
  HWY_INLINE VF load(int64_t i, VF centred, const Access& at) const {
    const VF dy = at.load(a.dy + i);
    if constexpr (kGate == Gate::kOutput) {
      return hn::IfThenElseZero(hn::Gt(at.load(a.y + i), zero()), dy);
    } else if constexpr (kGate == Gate::kNorm) {
      return hn::IfThenElseZero(hn::Gt(as_written<T>(hn::MulAdd(centred, scale, beta)), zero()), dy);
    } else {
      return dy;
    }
  }
};

// Sums of g and of g (x - mean) over the block's rows; writes g where it is wanted.
template <Gate kGate, class T>
void backward_sums(const BatchNormBackward<T>& a, int64_t row, int64_t rows, float* sums) {
  const int64_t n = a.channels;
  sweep(0, n, [&](int64_t c, auto at) HWY_ATTR {
    const Gated<kGate, T> gated(a, c, at);
    const VF mean = at.load(a.mean + c);
    VF sum = zero(), product = zero();
    for (int64_t i = row * n + c, end = (row + rows) * n; i < end; i += n) {
      const VF centred = hn::Sub(at.load(a.x + i), mean);
      const VF g = gated.load(i, centred, at);
      if (a.g) at.store(g, a.g + i);
      sum = hn::Add(sum, g);
      product = hn::MulAdd(g, centred, product);
    }
    at.store(sum, sums + c);
    at.store(product, sums + padded(n) + c);
  });
}

// dx = gamma rstd (g - mean(g) - (x - mean) rstd^2 mean(g (x - mean))), as u g + v x + w by channel.
struct Coefficients {
  float *u, *v, *w;
};

template <class T>
void join_sums(const BatchNormBackward<T>& a, const float* parts, const Coefficients& k) {
  const int64_t n = padded(a.channels);
  const auto rows = static_cast<double>(a.rows);
  for (int64_t c = 0; c < n; c += kDoubles) {
    VD sums = hn::Zero(DD()), products = hn::Zero(DD());
    for (int64_t b = 0; b < blocks_of(a.rows); ++b) {
      sums = hn::Add(sums, load_doubles(parts + 2 * b * n + c));
      products = hn::Add(products, load_doubles(parts + (2 * b + 1) * n + c));
    }
    for_lanes(a.channels, c, sums, products, [&](int64_t channel, double sum, double product) {
      const double rstd = a.rstd[channel], scale = a.gamma[channel] * rstd;
      a.dgamma[channel] = static_cast<float>(product * rstd);
      a.dbeta[channel] = static_cast<float>(sum);
      k.u[channel] = static_cast<float>(scale);
      k.v[channel] = static_cast<float>(-scale * rstd * rstd * product / rows);
      k.w[channel] = static_cast<float>(-scale * sum / rows);
    });
  }
}

template <Gate kGate, class T>
void backward_rows(const BatchNormBackward<T>& a, const Coefficients& k, int64_t row, int64_t rows) {
  const int64_t n = a.channels;
  sweep(0, n, [&](int64_t c, auto at) HWY_ATTR {
    const Gated<kGate, T> gated(a, c, at);
    const VF u = at.load(k.u + c), v = at.load(k.v + c), w = at.load(k.w + c), mean = at.load(a.mean + c);
    for (int64_t i = row * n + c, end = (row + rows) * n; i < end; i += n) {
      const VF centred = hn::Sub(at.load(a.x + i), mean);
      at.store(hn::MulAdd(u, gated.load(i, centred, at), hn::MulAdd(v, centred, w)), a.dx + i);
    }
  });
}

template <class T>
void moments(const BatchMoments<T>& a, int threads) {
  ScratchScope scratch;
  const int64_t n = padded(a.channels);
  float* parts = scratch.floats(blocks_of(a.rows) * 2 * n);
  for_blocks(Way::kBack, a.rows, a.channels, threads, [&](int64_t b, int64_t row, int64_t rows) {
    float* part = parts + b * 2 * n;
    block_moments(a.x + row * a.channels, rows, a.channels, part, part + n);
  });
  join_moments(a, parts);
}

template <class T>
void apply(const BatchNormApply<T>& a, int threads) {
  for_blocks(Way::kForth, a.rows, a.channels, threads, [&](int64_t, int64_t row, int64_t rows) {
    if (a.relu) {
      a.residual ? apply_rows<true, true>(a, row, rows) : apply_rows<true, false>(a, row, rows);
    } else {
      a.residual ? apply_rows<false, true>(a, row, rows) : apply_rows<false, false>(a, row, rows);
    }
  });
}

template <Gate kGate, class T>
void backward_through(const BatchNormBackward<T>& a, int threads) {
  ScratchScope scratch;
  const int64_t n = padded(a.channels);
  float* parts = scratch.floats(blocks_of(a.rows) * 2 * n);
  const Coefficients k{scratch.floats(a.channels), scratch.floats(a.channels), scratch.floats(a.channels)};
  for_blocks(Way::kBack, a.rows, a.channels, threads, [&](int64_t b, int64_t row, int64_t rows) {
    backward_sums<kGate>(a, row, rows, parts + b * 2 * n);
  });
  join_sums(a, parts, k);
  BatchNormBackward<T> kept = a;
  if (a.g) kept.dy = a.g;  // has been through the gate
  for_blocks(Way::kForth, a.rows, a.channels, threads, [&](int64_t, int64_t row, int64_t rows) {
    a.g ? backward_rows<Gate::kNone>(kept, k, row, rows) : backward_rows<kGate>(a, k, row, rows);
  });
}

template <class T>
void backward(const BatchNormBackward<T>& a, int threads) {
  if (a.y) {
    backward_through<Gate::kOutput>(a, threads);
  } else if (a.beta) {
    backward_through<Gate::kNorm>(a, threads);
  } else {
    backward_through<Gate::kNone>(a, threads);
  }
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
