// One microbatch as the loader hands it over.
#pragma once

#include <cstdint>
#include <vector>

#include "furrow/base/array.h"

namespace furrow::data {

// Lives in a slot of the loader's ring: valid until the loader's next_slot() comes round again, see loader.h.
struct Batch {
  std::vector<ArrayView> arrays;      // input, target; dim 0 is the sample
  std::vector<int64_t> sample_ids;    // global sample index of each row: the counter of its random numbers
  int64_t weight = 0;                 // samples that count (rows)
};

}  // namespace furrow::data
