// The global order of samples, a pure function of (seed, position): no state, so that the whole data position is one
// integer.  Position p is sample p % size of epoch p / size; each epoch has its own keyed permutation.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace furrow::data {

class SampleOrder {
 public:
  // `subset` maps [0, size) to indices of the source; empty means the identity on `size`.
  SampleOrder(uint64_t seed, int64_t size, bool shuffle);
  // The indices for positions [position, position + out.size()).
  void indices(int64_t position, std::span<int64_t> out) const;
  int64_t size() const { return size_; }

 private:
  uint64_t seed_;
  int64_t size_;
  bool shuffle_;
};

}  // namespace furrow::data
