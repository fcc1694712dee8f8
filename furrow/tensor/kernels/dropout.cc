#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "furrow/tensor/kernels/dropout.cc"
#include "furrow/tensor/kernels/targets.h"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on
#include "furrow/tensor/kernels/dropout.h"
#include "furrow/tensor/kernels/parallel.h"
#include "furrow/tensor/kernels/philox-inl.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {

// Chunks of all samples are shared out; a chunk draws its own part of its sample's mask.
void run_residual_dropout(const ResidualDropout& a, int threads) {
  const int64_t chunks = (a.per_sample + kChunkWords - 1) / kChunkWords;
  parallel_for(
      team_for(a.batch * a.per_sample, 16384, threads), a.batch * chunks, [&](int64_t begin, int64_t end) {
        alignas(64) float factors[kChunkWords];
        for (int64_t c = begin; c < end; ++c) {
          const int64_t sample = c / chunks, first = c % chunks * kChunkWords;
          const int64_t n = std::min(kChunkWords, a.per_sample - first), from = sample * a.per_sample + first;
          if (a.mask.p == 0) {
            std::fill(factors, factors + n, 1.0f);
          } else {
            dropout_factors(a.mask, a.mask.samples[sample], first, n, factors);
          }
          sweep(0, n, [&](int64_t i, auto at) HWY_ATTR {
            const VF x = hn::Mul(at.load(a.x + from + i), at.load(factors + i));
            at.store(a.residual ? hn::Add(at.load(a.residual + from + i), x) : x, a.out + from + i);
          });
        }
      });
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace furrow::tensor::kernels {

HWY_EXPORT(run_residual_dropout);
void residual_dropout(const ResidualDropout& args, int threads) {
  HWY_DYNAMIC_DISPATCH(run_residual_dropout)(args, threads);
}
void dropout(const Dropout& a, int threads) {
  residual_dropout({a.batch, a.per_sample, nullptr, a.x, a.out, a.mask}, threads);
}

}  // namespace furrow::tensor::kernels
#endif
