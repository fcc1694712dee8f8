#include "furrow/data/positions.h"

#include <algorithm>
#include <numeric>

#include "furrow/base/error.h"

namespace furrow::data {

PositionRange Share::at(int64_t start, int64_t k, int64_t end) const {
  const auto count = static_cast<int64_t>(sizes.size());
  const auto microbatch = static_cast<size_t>(k % count);
  const int64_t step = stride > 0 ? stride : std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
  const int64_t offset =
      offsets.empty()
          ? std::accumulate(sizes.begin(), sizes.begin() + static_cast<long>(microbatch), int64_t{0})
          : offsets[microbatch];
  PositionRange range{start + k / count * step + offset, sizes[microbatch]};
  if (end >= 0) range.size = std::clamp<int64_t>(end - range.begin, 0, range.size);
  return range;
}

void Share::check() const {
  FURROW_CHECK(!sizes.empty() && *std::ranges::min_element(sizes) > 0, "empty microbatches");
  FURROW_CHECK(offsets.empty() || offsets.size() == sizes.size(), "an offset for each microbatch");
  int64_t reached = 0;
  for (size_t i = 0; i < sizes.size(); ++i) {
    const int64_t offset = offsets.empty() ? reached : offsets[i];
    FURROW_CHECK(offset >= reached, "the microbatches of a share overlap");
    reached = offset + sizes[i];
  }
  FURROW_CHECK(stride == 0 || reached <= stride, "a share reaches beyond its step");
  FURROW_CHECK(stride > 0 || offsets.empty(), "offsets need a stride");
}

}  // namespace furrow::data
