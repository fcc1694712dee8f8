// A trace of a bounded size.
#pragma once

#include <cstddef>
#include <vector>

#include "furrow/observe/trace.h"

namespace furrow::observe {

// At most so many events: where there are more, the halves that start first and last, and between them one
// on the lane "left out" that says how many are not there.
std::vector<TraceEvent> abridged(std::vector<TraceEvent> events, size_t most);

}  // namespace furrow::observe
