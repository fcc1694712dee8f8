#include "furrow/tensor/kernels/pointwise_losses.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "furrow/tensor/kernels/parallel.h"

namespace furrow::tensor::kernels {
namespace {

constexpr int64_t kWorthAThread = 16384;  // elements
int team(int64_t n, int threads) { return n < 2 * kWorthAThread ? 1 : threads; }

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

int64_t binary_cross_entropy(int64_t n, const float* logits, const float* target, float* losses,
                             float* gradient, int threads) {
  std::atomic<int64_t> correct{0};
  parallel_for(team(n, threads), n, [&](int64_t begin, int64_t end) {
    int64_t own = 0;
    for (int64_t i = begin; i < end; ++i) {
      const double x = logits[i], t = target[i], e = std::exp(-std::abs(x));
      losses[i] = static_cast<float>(std::max(x, 0.0) - x * t + std::log1p(e));
      own += (x > 0) == (t > 0.5);
      if (gradient) gradient[i] = static_cast<float>((x < 0 ? e : 1.0) / (1.0 + e) - t);
    }
    correct += own;
  });
  return correct;
}

}  // namespace furrow::tensor::kernels
