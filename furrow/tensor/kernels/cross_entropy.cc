#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "furrow/tensor/kernels/cross_entropy.cc"
#include "furrow/tensor/kernels/targets.h"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "furrow/tensor/kernels/cross_entropy.h"
#include "furrow/tensor/kernels/math-inl.h"
#include "furrow/tensor/kernels/parallel.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();

float row_max(const float* logits, int64_t n) {
  F16 most = set16(kNone);
  sweep16(n, kNone, [&](int64_t i, auto at) HWY_ATTR {
    most = map16([](VF a, VF b) HWY_ATTR { return hn::Max(a, b); }, at.load(logits + i), most);
  });
  float lanes[16];
  store16(most, lanes);
  return *std::max_element(lanes, lanes + 16);
}

// Sum of exp(l - most); the exponentials go to `exps` when not null.
float row_exps(const float* logits, int64_t n, float most, float* exps) {
  F16 sum = set16(0);
  const VF shift = set(most);
  sweep16(n, kNone, [&](int64_t i, auto at) HWY_ATTR {
    const F16 e =
        map16([&](VF l) HWY_ATTR { return exp_nonpositive(hn::Sub(l, shift)); }, at.load(logits + i));
    sum = add16(sum, e);
    if (exps) at.store(e, exps + i);
  });
  return sum16(sum);
}

bool first_maximum_is(const float* logits, int64_t target, float most) {
  if (!(logits[target] == most)) return false;
  for (int64_t j = 0; j < target; ++j) {
    if (logits[j] == most) return false;
  }
  return true;
}

struct RowResult {
  float loss;
  bool correct;
};

// Mean of most - l over the row.
double mean_gap(const float* logits, int64_t n, float most) {
  F16 sum = set16(0);
  const VF shift = set(most);
  sweep16(n, most, [&](int64_t i, auto at) HWY_ATTR {
    sum = map16([&](VF l, VF s) HWY_ATTR { return hn::Add(s, hn::Sub(shift, l)); }, at.load(logits + i), sum);
  });
  return static_cast<double>(sum16(sum)) / static_cast<double>(n);
}

RowResult row_loss(const CrossEntropy& args, const float* logits, int64_t target, float* gradient) {
  const int64_t n = args.columns;
  const float most = row_max(logits, n);
  const bool correct = first_maximum_is(logits, target, most);
  double gap = static_cast<double>(most) - static_cast<double>(logits[target]);
  if (args.smoothing > 0) gap += args.smoothing * (mean_gap(logits, n, most) - gap);
  const float sum = row_exps(logits, n, most, gradient);
  if (gradient) {
    const VF factor = set(1.0f / sum), share = set(args.smoothing / static_cast<float>(n));
    sweep(0, n, [&](int64_t i, auto at) HWY_ATTR {
      at.store(hn::Sub(hn::Mul(at.load(gradient + i), factor), share), gradient + i);
    });
    gradient[target] -= 1.0f - args.smoothing;
  }
  return {static_cast<float>(std::log(static_cast<double>(sum)) + gap), correct};
}

}  // namespace

CrossEntropyCounts run_cross_entropy(const CrossEntropy& args, int threads) {
  std::atomic<int64_t> counted{0}, correct{0};
  parallel_for(args.rows * args.columns < 65536 ? 1 : threads, args.rows, [&](int64_t begin, int64_t end) {
    int64_t own_counted = 0, own_correct = 0;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t target = args.targets[i];
      float* gradient = args.dlogits ? args.dlogits + i * args.columns : nullptr;
      RowResult r{0, false};
      if (target >= 0) {
        r = row_loss(args, args.logits + i * args.columns, target, gradient);
        ++own_counted;
      } else if (gradient) {
        std::memset(gradient, 0, static_cast<size_t>(args.columns) * sizeof(float));
      }
      own_correct += r.correct;
      if (args.losses) args.losses[i] = r.loss;
    }
    counted += own_counted;
    correct += own_correct;
  });
  return {counted, correct};
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace furrow::tensor::kernels {

HWY_EXPORT(run_cross_entropy);
CrossEntropyCounts cross_entropy(const CrossEntropy& args, int threads) {
  return HWY_DYNAMIC_DISPATCH(run_cross_entropy)(args, threads);
}

}  // namespace furrow::tensor::kernels
#endif
