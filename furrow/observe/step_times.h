// Exact percentiles of step times.  Keeps every duration (8 bytes a step).  Not thread safe.
#pragma once

#include <cstdint>
#include <vector>

namespace furrow::observe {

class StepTimes {
 public:
  void add(int64_t duration_ns) { durations_ns_.push_back(duration_ns); }
  int64_t count() const { return static_cast<int64_t>(durations_ns_.size()); }
  int64_t total_ns() const;

  // The usual median (mean of the two middle ones when even) and the 99th percentile by nearest rank; 0 when
  // empty.
  double median_ms() const;
  double p99_ms() const;

 private:
  std::vector<int64_t> durations_ns_;
};

}  // namespace furrow::observe
