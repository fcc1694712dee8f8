// Cutting a validation split out of training data.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace furrow::data {

// How many of `size` a fraction in [0, 1) is, rounded up.  Error{invalid_argument} when the fraction is
// outside [0, 1) or leaves nothing of the rest; `key` and `what` ("images") are named.
int64_t fraction_count(double fraction, int64_t size, const char* key, const char* what);

struct Carved {
  std::vector<uint32_t> train, validation;  // ascending, disjoint, together [0, size)
};

// Tells `chosen` a random `count` of the numbers below `size`, each once, in no order: a pure function of the
// arguments.  REQUIRES: 0 <= count < size.
void for_each_chosen(int64_t size, int64_t count, uint64_t seed, const std::function<void(int64_t)>& chosen);

// A random `validation` of `size` samples, a pure function of the arguments.  REQUIRES: 0 <= validation <
// size < 2^32.
Carved carve(int64_t size, int64_t validation, uint64_t seed);

}  // namespace furrow::data
