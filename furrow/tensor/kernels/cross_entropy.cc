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
#include "furrow/tensor/kernels/scratch.h"

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

// Sum of most - l over the row.
float gap_sum(const float* logits, int64_t n, float most) {
  F16 sum = set16(0);
  const VF shift = set(most);
  sweep16(n, most, [&](int64_t i, auto at) HWY_ATTR {
    sum = map16([&](VF l, VF s) HWY_ATTR { return hn::Add(s, hn::Sub(shift, l)); }, at.load(logits + i), sum);
  });
  return sum16(sum);
}

double mean_gap(const float* logits, int64_t n, float most) {
  return static_cast<double>(gap_sum(logits, n, most)) / static_cast<double>(n);
}

// Sum of w (most - l) over the row.
float weighted_gap_sum(const float* logits, const float* weights, int64_t n, float most) {
  F16 sum = set16(0);
  const VF shift = set(most);
  sweep16(n, 0, [&](int64_t i, auto at) HWY_ATTR {
    sum = map16([&](VF l, VF w, VF s) HWY_ATTR { return hn::Add(s, hn::Mul(w, hn::Sub(shift, l))); },
                at.load(logits + i), at.load(weights + i), sum);
  });
  return sum16(sum);
}

// What the terms of a row's loss are multiplied with: its target's, each column's w, the logarithm of the sum
// of exponentials.
struct RowWeights {
  double target, each, sum;
};

RowWeights row_weights(const float* weights, int64_t target, int64_t classes, double smoothing) {
  RowWeights w{(1 - smoothing) * static_cast<double>(weights[target]), 0, 0};
  double all = 0;
  if (smoothing > 0) {
    w.each = smoothing / static_cast<double>(classes);
    for (int64_t c = 0; c < classes; ++c) all += static_cast<double>(weights[c]);
  }
  w.sum = w.target + w.each * all;
  return w;
}

// Exponentials become gradients; `target` is outside [0, n) where it is another rank's.
void weighted_gradient(const RowWeights& w, const float* weights, float sum, int64_t n, int64_t target,
                       float* gradient) {
  const VF factor = set(static_cast<float>(w.sum) / sum), share = set(static_cast<float>(w.each));
  sweep(0, n, [&](int64_t i, auto at) HWY_ATTR {
    at.store(hn::Sub(hn::Mul(at.load(gradient + i), factor), hn::Mul(share, at.load(weights + i))),
             gradient + i);
  });
  if (target >= 0 && target < n) gradient[target] -= static_cast<float>(w.target);
}

RowResult weighted_row_loss(const CrossEntropy& args, const float* logits, int64_t target, float* gradient) {
  const int64_t n = args.columns;
  const RowWeights w = row_weights(args.weights, target, n, args.smoothing);
  const float most = row_max(logits, n);
  const bool correct = first_maximum_is(logits, target, most);
  double loss = w.target * (static_cast<double>(most) - static_cast<double>(logits[target]));
  if (w.each > 0) loss += w.each * static_cast<double>(weighted_gap_sum(logits, args.weights, n, most));
  const float sum = row_exps(logits, n, most, gradient);
  if (gradient) weighted_gradient(w, args.weights, sum, n, target, gradient);
  return {static_cast<float>(w.sum * std::log(static_cast<double>(sum)) + loss), correct};
}

RowResult row_loss(const CrossEntropy& args, const float* logits, int64_t target, float* gradient) {
  if (args.weights != nullptr) return weighted_row_loss(args, logits, target, gradient);
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

int team(int64_t rows, int64_t columns, int threads) { return team_for(rows * columns, 32768, threads); }

// Of a row over the temperature.
struct Tempered {
  float* scores;
  float most, sum;  // of the exponentials of scores - most
};

Tempered tempered(const float* logits, int64_t n, float temperature, float* scores, float* exps) {
  const VF factor = set(1.0f / temperature);
  sweep(0, n,
        [&](int64_t i, auto at) HWY_ATTR { at.store(hn::Mul(at.load(logits + i), factor), scores + i); });
  const float most = row_max(scores, n);
  return {scores, most, row_exps(scores, n, most, exps)};
}

// KL(softmax(theirs) || softmax(ours)) of `exps`, the exponentials of theirs.
double divergence(const Tempered& ours, const Tempered& theirs, const float* exps, int64_t n) {
  F16 sum = set16(0);
  const VF shift = set(theirs.most - ours.most);
  sweep16(n, 0, [&](int64_t i, auto at) HWY_ATTR {
    sum = map16([&](VF t, VF o, VF e, VF s)
                    HWY_ATTR { return hn::Add(s, hn::Mul(e, hn::Sub(hn::Sub(t, o), shift))); },
                at.load(theirs.scores + i), at.load(ours.scores + i), at.load(exps + i), sum);
  });
  return static_cast<double>(sum16(sum)) / static_cast<double>(theirs.sum) -
         std::log(static_cast<double>(theirs.sum)) + std::log(static_cast<double>(ours.sum));
}

// `gradient` is that of the cross-entropy, and becomes that of both.
double taught_row(const Distillation& a, const float* logits, const float* teacher, float* gradient) {
  const int64_t n = a.plain.columns;
  ScratchScope scratch;
  float* const ours_scores = scratch.floats(n);
  float* const their_scores = scratch.floats(n);
  float* const our_exps = scratch.floats(n);
  float* const their_exps = scratch.floats(n);
  const Tempered ours = tempered(logits, n, a.temperature, ours_scores, our_exps),
                 theirs = tempered(teacher, n, a.temperature, their_scores, their_exps);
  if (gradient != nullptr) {
    const VF own = set(1 - a.alpha), ours_share = set(a.alpha * a.temperature / ours.sum),
             their_share = set(a.alpha * a.temperature / theirs.sum);
    sweep(0, n, [&](int64_t i, auto at) HWY_ATTR {
      const VF soft =
          hn::Sub(hn::Mul(at.load(our_exps + i), ours_share), hn::Mul(at.load(their_exps + i), their_share));
      at.store(hn::Add(hn::Mul(at.load(gradient + i), own), soft), gradient + i);
    });
  }
  return divergence(ours, theirs, their_exps, n);
}

void part_sums(const CrossEntropyPart& a, int64_t row) {
  const float* const logits = a.logits + row * a.stride;
  float* const exps = a.dlogits ? a.dlogits + row * a.stride : nullptr;
  double* const sums = a.sums + 4 * row;
  std::fill(sums, sums + 4, 0.0);
  if (a.targets[row] < 0) return;
  const float most = a.maxima[row];
  const int64_t target = a.targets[row] - a.first;
  for (int64_t j = 0; j < std::min(target, a.columns); ++j) sums[3] += logits[j] == most;
  if (target >= 0 && target < a.columns)
    sums[1] = static_cast<double>(most) - static_cast<double>(logits[target]);
  if (a.smoothing > 0) {
    sums[2] = a.weights != nullptr ? weighted_gap_sum(logits, a.weights + a.first, a.columns, most)
                                   : gap_sum(logits, a.columns, most);
  }
  sums[0] = row_exps(logits, a.columns, most, exps);
}

void part_gradient(const CrossEntropyPart& a, int64_t row) {
  float* const gradient = a.dlogits + row * a.stride;
  const int64_t target = a.targets[row] - a.first, end = a.targets[row] < 0 ? 0 : a.columns;
  std::fill(gradient + end, gradient + a.stride, 0.0f);
  if (end == 0) return;
  if (a.weights != nullptr) {
    weighted_gradient(row_weights(a.weights, a.targets[row], a.classes, a.smoothing), a.weights + a.first,
                      static_cast<float>(a.sums[4 * row]), end, target, gradient);
    return;
  }
  const VF factor = set(1.0f / static_cast<float>(a.sums[4 * row])),
           share = set(a.smoothing / static_cast<float>(a.classes));
  sweep(0, end, [&](int64_t i, auto at) HWY_ATTR {
    at.store(hn::Sub(hn::Mul(at.load(gradient + i), factor), share), gradient + i);
  });
  if (target >= 0 && target < end) gradient[target] -= 1.0f - a.smoothing;
}

float part_loss(const CrossEntropyPart& a, int64_t row) {
  const double* const sums = a.sums + 4 * row;
  if (a.weights != nullptr) {
    const RowWeights w = row_weights(a.weights, a.targets[row], a.classes, a.smoothing);
    return static_cast<float>(w.sum * std::log(sums[0]) + (w.target * sums[1] + w.each * sums[2]));
  }
  double gap = sums[1];
  if (a.smoothing > 0) gap += a.smoothing * (sums[2] / static_cast<double>(a.classes) - gap);
  return static_cast<float>(std::log(sums[0]) + gap);
}

}  // namespace

void run_maxima(const CrossEntropyPart& a, int threads) {
  parallel_for(team(a.rows, a.columns, threads), a.rows, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) a.maxima[i] = row_max(a.logits + i * a.stride, a.columns);
  });
}

void run_sums(const CrossEntropyPart& a, int threads) {
  parallel_for(team(a.rows, a.columns, threads), a.rows, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) part_sums(a, i);
  });
}

CrossEntropyCounts run_finish(const CrossEntropyPart& a, int threads) {
  CrossEntropyCounts counts;
  for (int64_t i = 0; i < a.rows; ++i) {
    const bool ignored = a.targets[i] < 0;
    a.losses[i] = ignored ? 0 : part_loss(a, i);
    counts.counted += !ignored;
    counts.correct += !ignored && a.sums[4 * i + 1] == 0 && a.sums[4 * i + 3] == 0;
  }
  if (a.dlogits == nullptr) return counts;
  parallel_for(team(a.rows, a.columns, threads), a.rows, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) part_gradient(a, i);
  });
  return counts;
}

CrossEntropyCounts run_cross_entropy(const CrossEntropy& args, int threads) {
  std::atomic<int64_t> counted{0}, correct{0};
  parallel_for(team(args.rows, args.columns, threads), args.rows, [&](int64_t begin, int64_t end) {
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

void teach(const Distillation& a, int64_t row) {
  const CrossEntropy& plain = a.plain;
  if (plain.targets[row] < 0) return;
  const int64_t begin = row * plain.columns;
  float* const gradient = plain.dlogits ? plain.dlogits + begin : nullptr;
  const double soft = taught_row(a, plain.logits + begin, a.teacher + begin, gradient);
  const double alpha = a.alpha, temperature = a.temperature;
  plain.losses[row] = static_cast<float>(alpha * temperature * temperature * soft +
                                         (1 - alpha) * static_cast<double>(plain.losses[row]));
}

CrossEntropyCounts run_distillation(const Distillation& a, int threads) {
  const CrossEntropyCounts counts = run_cross_entropy(a.plain, threads);
  parallel_for(team(a.plain.rows, a.plain.columns, threads), a.plain.rows, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) teach(a, i);
  });
  return counts;
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

HWY_EXPORT(run_distillation);
CrossEntropyCounts distillation(const Distillation& args, int threads) {
  return HWY_DYNAMIC_DISPATCH(run_distillation)(args, threads);
}

HWY_EXPORT(run_maxima);
HWY_EXPORT(run_sums);
HWY_EXPORT(run_finish);
void cross_entropy_maxima(const CrossEntropyPart& args, int threads) {
  HWY_DYNAMIC_DISPATCH(run_maxima)(args, threads);
}
void cross_entropy_sums(const CrossEntropyPart& args, int threads) {
  HWY_DYNAMIC_DISPATCH(run_sums)(args, threads);
}
CrossEntropyCounts cross_entropy_finish(const CrossEntropyPart& args, int threads) {
  return HWY_DYNAMIC_DISPATCH(run_finish)(args, threads);
}

}  // namespace furrow::tensor::kernels
#endif
