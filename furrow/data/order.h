// The global order of samples, a pure function of (seed, position): no state, so that the whole data position
// is one integer.  Position p is sample p % size of epoch p / size; each epoch has its own keyed permutation
// (base/rng.h), so every sample comes exactly once per epoch.  A rank computes its share, it stores none.
#pragma once

#include <cstdint>
#include <span>

namespace furrow::data {

// A value; thread safe.
class SampleOrder {
 public:
  // `shuffle` false: the order of the source in every epoch.  REQUIRES: size > 0.
  SampleOrder(uint64_t seed, int64_t size, bool shuffle);
  // The indices for positions [position, position + out.size()).  REQUIRES: position >= 0.
  void indices(int64_t position, std::span<int64_t> out) const;
  int64_t size() const { return size_; }

 private:
  uint64_t seed_;
  int64_t size_;
  bool shuffle_;
};

}  // namespace furrow::data
