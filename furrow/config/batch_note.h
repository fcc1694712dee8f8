// What a global batch that is not given means to whoever changes the number of ranks.
#pragma once

#include <cstdint>
#include <string>

#include "furrow/config/training.h"

namespace furrow::config {

// For the header of a run: empty, or that global_batch_size = -1 makes the recipe depend on data_ranks, and
// how to keep it.
std::string batch_by_ranks(const Training& training, int64_t data_ranks);

}  // namespace furrow::config
