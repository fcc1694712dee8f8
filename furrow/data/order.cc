#include "furrow/data/order.h"

#include <algorithm>

#include "furrow/base/error.h"
#include "furrow/base/rng.h"

namespace furrow::data {

SampleOrder::SampleOrder(uint64_t seed, int64_t size, bool shuffle)
    : seed_(seed), size_(size), shuffle_(shuffle) {
  FURROW_CHECK(size > 0, "an order over no samples");
}

void SampleOrder::indices(int64_t position, std::span<int64_t> out) const {
  FURROW_CHECK(position >= 0, "a negative data position");
  while (!out.empty()) {
    const int64_t epoch = position / size_, first = position % size_;
    const auto part = out.first(std::min(out.size(), static_cast<size_t>(size_ - first)));
    const KeyedPermutation permutation(seed_, static_cast<uint64_t>(epoch), static_cast<uint64_t>(size_));
    for (size_t i = 0; i < part.size(); ++i) {
      const int64_t index = first + static_cast<int64_t>(i);
      part[i] = shuffle_ ? static_cast<int64_t>(permutation(static_cast<uint64_t>(index))) : index;
    }
    position += static_cast<int64_t>(part.size());
    out = out.subspan(part.size());
  }
}

}  // namespace furrow::data
