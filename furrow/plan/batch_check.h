// Whether every data rank gets a microbatch: asked by the compiler, and before any rank is started.
#pragma once

#include <cstdint>
#include <vector>

#include "furrow/plan/layout.h"

namespace furrow::plan {

// `sizes`: of the microbatches of the global batch.  Error{invalid_argument}, with the sum: fewer than data
// ranks.
void check_microbatches(const std::vector<int64_t>& sizes, const Layout& layout);

}  // namespace furrow::plan
