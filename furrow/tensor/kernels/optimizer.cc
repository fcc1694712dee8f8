#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "furrow/tensor/kernels/optimizer.cc"
#include "furrow/tensor/kernels/targets.h"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on
#include "furrow/tensor/kernels/fetch-inl.h"
#include "furrow/tensor/kernels/moments-inl.h"
#include "furrow/tensor/kernels/optimizer.h"
#include "furrow/tensor/kernels/parallel.h"
#include "furrow/tensor/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {
namespace {

int team(int64_t n, int threads) { return team_for(n, 32768, threads); }

void sgd_range(const Sgd& a, int64_t begin, int64_t end) {
  const VF grad_scale = set(a.grad_scale), decay = set(a.weight_decay), momentum = set(a.momentum),
           lr = set(a.lr);
  sweep(begin, end, [&](int64_t i, auto at) HWY_ATTR {
    const VF param = at.load(a.param + i);
    const VF g = hn::MulAdd(decay, param, hn::Mul(grad_scale, at.load(a.grad + i)));
    VF move = g;
    if (a.momentum_buffer) {
      const VF buffer = hn::MulAdd(momentum, at.load(a.momentum_buffer + i), g);
      at.store(buffer, a.momentum_buffer + i);
      move = a.nesterov ? hn::MulAdd(momentum, buffer, g) : buffer;
    }
    at.store(hn::NegMulAdd(lr, move, param), a.param + i);
  });
}

void adam_range(const Adam& a, int64_t begin, int64_t end) {
  const Moments moments(a);
  const VF keep = rounded(a.decoupled ? 1 - a.lr * a.weight_decay : 1);
  const VF decay = rounded(a.decoupled ? 0 : a.weight_decay);
  const VF rate = rounded(a.lr / Moments::correction1(a));
  sweep(begin, end, [&](int64_t i, auto at) HWY_ATTR {
    fetch(i + kElementsAhead, a.param, a.grad, a.exp_avg, a.exp_avg_sq);
    const VF old = at.load(a.param + i);
    VF g = hn::Mul(moments.grad_scale, at.load(a.grad + i));
    if (!a.decoupled) g = hn::MulAdd(decay, old, g);
    const VF m = moments.first(at.load(a.exp_avg + i), g);
    const VF v = moments.second(at.load(a.exp_avg_sq + i), g);
    at.store(m, a.exp_avg + i);
    at.store(v, a.exp_avg_sq + i);
    const VF step = hn::Div(m, moments.scale(hn::Sqrt(v)));
    at.store(hn::NegMulAdd(rate, step, hn::Mul(keep, old)), a.param + i);
  });
}

void lion_range(const Lion& a, int64_t begin, int64_t end) {
  const VF grad_scale = set(a.grad_scale), keep = rounded(1 - a.lr * a.weight_decay), rate = rounded(a.lr);
  const VF beta1 = rounded(a.beta1), rest1 = rounded(1 - a.beta1);
  const VF beta2 = rounded(a.beta2), rest2 = rounded(1 - a.beta2);
  const VF zero = set(0.0F);
  sweep(begin, end, [&](int64_t i, auto at) HWY_ATTR {
    const VF g = hn::Mul(grad_scale, at.load(a.grad + i)), m = at.load(a.exp_avg + i);
    const VF c = hn::MulAdd(beta1, m, hn::Mul(rest1, g));
    const VF move = hn::IfThenZeroElse(hn::Eq(c, zero), hn::CopySign(rate, c));
    at.store(hn::Sub(hn::Mul(keep, at.load(a.param + i)), move), a.param + i);
    at.store(hn::MulAdd(beta2, m, hn::Mul(rest2, g)), a.exp_avg + i);
  });
}

// Sum of squares of up to kGridElements elements, lane l taking elements l, l + 16, ...
double block_sum(const float* x, int64_t n) {
  hn::Vec<DD> sums[kSums];
  for (auto& sum : sums) sum = hn::Zero(DD());
  const auto add = [&](const float* p) HWY_ATTR {
    fetch(kElementsAhead, p);
    for (int s = 0; s < kSums; ++s) {
      const auto v = hn::PromoteTo(DD(), hn::LoadU(DHalf(), p + s * kDoubles));
      sums[s] = hn::MulAdd(v, v, sums[s]);
    }
  };
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) add(x + i);
  if (i < n) {
    float rest[16] = {};
    std::memcpy(rest, x + i, static_cast<size_t>(n - i) * sizeof(float));
    add(rest);
  }
  double lanes[16];
  for (int s = 0; s < kSums; ++s) hn::StoreU(sums[s], DD(), lanes + s * kDoubles);
  return join(lanes);
}

struct LambFactors {
  explicit LambFactors(const Lamb& a)
      : moments(a), correction1(rounded(1 / Moments::correction1(a))), decay(rounded(a.weight_decay)) {}
  VF direction(VF m, VF v, VF param) const {
    return hn::MulAdd(decay, param, hn::Div(hn::Mul(correction1, m), moments.scale(hn::Sqrt(v))));
  }
  Moments moments;
  VF correction1, decay;
};

// One block of the grid.
void lamb_block(const Lamb& a, const LambFactors& f, int64_t block) {
  const int64_t begin = block * kGridElements, end = std::min(a.n, begin + kGridElements);
  alignas(64) float direction[kGridElements];
  sweep(begin, end, [&](int64_t i, auto at) HWY_ATTR {
    const VF g = hn::Mul(f.moments.grad_scale, at.load(a.grad + i));
    const VF m = f.moments.first(at.load(a.exp_avg + i), g);
    const VF v = f.moments.second(at.load(a.exp_avg_sq + i), g);
    at.store(m, a.exp_avg + i);
    at.store(v, a.exp_avg_sq + i);
    if (a.direction_squares) at.store(f.direction(m, v, at.load(a.param + i)), direction + (i - begin));
  });
  if (!a.direction_squares) return;
  a.direction_squares[block] = block_sum(direction, end - begin);
  a.param_squares[block] = block_sum(a.param + begin, end - begin);
}

void lamb_apply_range(const Lamb& a, int64_t begin, int64_t end) {
  const LambFactors f(a);
  const VF rate = rounded(a.rate);
  sweep(begin, end, [&](int64_t i, auto at) HWY_ATTR {
    const VF param = at.load(a.param + i);
    const VF r = f.direction(at.load(a.exp_avg + i), at.load(a.exp_avg_sq + i), param);
    at.store(hn::NegMulAdd(rate, r, param), a.param + i);
  });
}

void average_range(const Average& a, int64_t begin, int64_t end) {
  const VF share = set(a.share);
  sweep(begin, end, [&](int64_t i, auto at) HWY_ATTR {
    const VF old = at.load(a.average + i);
    at.store(hn::MulAdd(share, hn::Sub(at.load(a.param + i), old), old), a.average + i);
  });
}

}  // namespace

void run_sgd(const Sgd& args, int threads) {
  parallel_for(team(args.n, threads), args.n,
               [&](int64_t begin, int64_t end) { sgd_range(args, begin, end); });
}

void run_adam(const Adam& args, int threads) {
  parallel_for(team(args.n, threads), args.n,
               [&](int64_t begin, int64_t end) { adam_range(args, begin, end); });
}

void run_lion(const Lion& args, int threads) {
  parallel_for(team(args.n, threads), args.n,
               [&](int64_t begin, int64_t end) { lion_range(args, begin, end); });
}

void run_lamb_moments(const Lamb& args, int threads) {
  parallel_for(team(args.n, threads), grid_blocks(args.n), [&](int64_t begin, int64_t end) {
    const LambFactors factors(args);
    for (int64_t b = begin; b < end; ++b) lamb_block(args, factors, b);
  });
}

void run_lamb_apply(const Lamb& args, int threads) {
  parallel_for(team(args.n, threads), args.n,
               [&](int64_t begin, int64_t end) { lamb_apply_range(args, begin, end); });
}

void run_average(const Average& args, int threads) {
  parallel_for(team(args.n, threads), args.n,
               [&](int64_t begin, int64_t end) { average_range(args, begin, end); });
}

void run_sum_of_squares(int64_t n, const float* x, double* block_sums, int threads) {
  parallel_for(team(n, threads), grid_blocks(n), [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      block_sums[b] = block_sum(x + b * kGridElements, std::min(kGridElements, n - b * kGridElements));
    }
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace furrow::tensor::kernels {

HWY_EXPORT(run_sgd);
HWY_EXPORT(run_adam);
HWY_EXPORT(run_lion);
HWY_EXPORT(run_lamb_moments);
HWY_EXPORT(run_lamb_apply);
HWY_EXPORT(run_average);
HWY_EXPORT(run_sum_of_squares);
void sgd_step(const Sgd& args, int threads) { HWY_DYNAMIC_DISPATCH(run_sgd)(args, threads); }
void adam_step(const Adam& args, int threads) { HWY_DYNAMIC_DISPATCH(run_adam)(args, threads); }
void lion_step(const Lion& args, int threads) { HWY_DYNAMIC_DISPATCH(run_lion)(args, threads); }
void lamb_moments(const Lamb& args, int threads) { HWY_DYNAMIC_DISPATCH(run_lamb_moments)(args, threads); }
void lamb_apply(const Lamb& args, int threads) { HWY_DYNAMIC_DISPATCH(run_lamb_apply)(args, threads); }
void update_average(const Average& args, int threads) { HWY_DYNAMIC_DISPATCH(run_average)(args, threads); }
void sum_of_squares(int64_t n, const float* x, double* block_sums, int threads) {
  HWY_DYNAMIC_DISPATCH(run_sum_of_squares)(n, x, block_sums, threads);
}

}  // namespace furrow::tensor::kernels
#endif
