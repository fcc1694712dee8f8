#include "furrow/train/loss_scale.h"

#include <bit>
#include <cmath>
#include <limits>

namespace furrow::train {

LossScale next_loss_scale(const LossScale& scale, bool finite, const config::GradScaler& rule) {
  if (!finite) return {scale.factor * rule.backoff_factor, 0};
  if (scale.growth + 1 < rule.growth_interval) return {scale.factor, scale.growth + 1};
  const double grown = scale.factor * rule.growth_factor;
  return {grown <= static_cast<double>(std::numeric_limits<float>::max()) ? grown : scale.factor, 0};
}

double factor_of_sum(const LossScale& scale, int64_t targets) {
  const int power = targets > 1 ? std::bit_width(static_cast<uint64_t>(targets - 1)) : 0;
  return std::ldexp(scale.factor, -power);
}

}  // namespace furrow::train
