#include "furrow/observe/step_times.h"

#include <algorithm>
#include <numeric>

namespace furrow::observe {
namespace {

// The element of rank `rank` (from 0) in sorted order.
int64_t nth(std::vector<int64_t> values, size_t rank) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(rank), values.end());
  return values[rank];
}

}  // namespace

int64_t StepTimes::total_ns() const {
  return std::accumulate(durations_ns_.begin(), durations_ns_.end(), int64_t{0});
}

double StepTimes::median_ms() const {
  const size_t n = durations_ns_.size();
  if (n == 0) return 0;
  const int64_t low = nth(durations_ns_, (n - 1) / 2);
  const int64_t high = nth(durations_ns_, n / 2);
  return static_cast<double>(low + high) / 2e6;
}

double StepTimes::p99_ms() const {
  const size_t n = durations_ns_.size();
  if (n == 0) return 0;
  const size_t rank = (99 * n + 99) / 100;  // ceil(0.99 n), from 1
  return static_cast<double>(nth(durations_ns_, rank - 1)) / 1e6;
}

}  // namespace furrow::observe
