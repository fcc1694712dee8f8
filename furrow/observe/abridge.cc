#include "furrow/observe/abridge.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

namespace furrow::observe {

std::vector<TraceEvent> abridged(std::vector<TraceEvent> events, size_t most) {
  if (events.size() <= most) return events;
  const size_t half = most / 2, left_out = events.size() - 2 * half;
  std::ranges::stable_sort(events, {}, &TraceEvent::start_ns);
  const auto from = events.begin() + static_cast<ptrdiff_t>(half);
  const auto to = from + static_cast<ptrdiff_t>(left_out);
  TraceEvent gap;
  gap.name = fmt::format("{} events", left_out);
  gap.category = gap.stream = "left out";
  gap.start_ns = from->start_ns;
  gap.duration_ns = (to == events.end() ? std::prev(to)->start_ns : to->start_ns) - gap.start_ns;
  events.insert(events.erase(from, to), std::move(gap));
  return events;
}

}  // namespace furrow::observe
