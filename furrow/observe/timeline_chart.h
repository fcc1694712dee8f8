// A step as SVG: what ran when on which lane, predicted and measured, and what memory it held.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "furrow/base/memory.h"
#include "furrow/observe/trace.h"

namespace furrow::observe {

// Bytes by MemoryKind from a moment on, on the clock of the events.
struct MemoryMoment {
  int64_t time_ns = 0;
  std::array<int64_t, kMemoryKinds> bytes{};
};

struct TimelineChart {
  std::string title;
  std::span<const TraceEvent> events;  // a lane for each stream, in order of first use
  std::vector<MemoryMoment> memory;    // by time; empty: none is drawn
};

// Equal charts give equal text.  Times count from the earliest event.
std::string to_svg(const TimelineChart& chart);

}  // namespace furrow::observe
