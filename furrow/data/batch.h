// One microbatch as the loader hands it over.
#pragma once

#include <cstdint>
#include <vector>

#include "furrow/base/array.h"

namespace furrow::data {

// Lives in a slot of the loader's ring: valid until its release(), see loader.h.
struct Batch {
  std::vector<ArrayView>
      arrays;  // as the source's fields: input, target; dim 0 is the sample; 64-byte aligned
  std::vector<int64_t> sample_ids;  // global position of each row: the counter of its random numbers
  std::vector<int64_t> indices;     // index in the source of each row
  int64_t weight = 0;               // samples that count (rows)
};

}  // namespace furrow::data
