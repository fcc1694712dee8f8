#include "furrow/tensor/kernels/pointwise_losses.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "furrow/tensor/kernels/parallel.h"

namespace furrow::tensor::kernels {
namespace {

int team(int64_t n, int threads) { return team_for(n, 16384, threads); }

}  // namespace

void squared_error(int64_t n, const float* y, const float* target, float* losses, float* gradient,
                   int threads) {
  parallel_for(team(n, threads), n, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float difference = y[i] - target[i];
      losses[i] = difference * difference;
      if (gradient) gradient[i] = 2.0f * difference;
    }
  });
}

int64_t binary_cross_entropy(const BinaryCrossEntropy& a, int threads) {
  std::atomic<int64_t> correct{0};
  parallel_for(team(a.n, threads), a.n, [&](int64_t begin, int64_t end) {
    int64_t own = 0;
    for (int64_t i = begin; i < end; ++i) {
      const double x = a.logits[i], t = a.targets[i], e = std::exp(-std::abs(x));
      const double up = a.positive * t, all = up + a.negative * (1 - t);
      a.losses[i] = static_cast<float>(all * std::max(x, 0.0) - x * up + all * std::log1p(e));
      own += (x > 0) == (t > 0.5);
      if (a.gradient) a.gradient[i] = static_cast<float>(all * ((x < 0 ? e : 1.0) / (1.0 + e)) - up);
    }
    correct += own;
  });
  return correct;
}

}  // namespace furrow::tensor::kernels
