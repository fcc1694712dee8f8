// Of measurements.
#pragma once

#include <algorithm>
#include <vector>

namespace furrow::train {

// The upper one of the two in the middle.  REQUIRES: there are some.
inline double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<long>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace furrow::train
