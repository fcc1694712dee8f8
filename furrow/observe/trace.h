// The timeline of an executed program in Chrome's trace format: open trace.json in Perfetto or
// chrome://tracing. Format: "Trace Event Format", complete events ("ph": "X"), times in microseconds.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace furrow::observe {

struct TraceEvent {
  std::string name;      // "forward conv1"
  std::string category;  // the operation: "forward"
  std::string stream;    // one lane each: "compute", "copy", "loader"
  int64_t start_ns = 0;  // of one monotonic clock
  int64_t duration_ns = 0;
  std::vector<std::pair<std::string, std::string>> args;
};

// Lanes appear in order of first use; times count from the earliest event.
std::string to_chrome_trace(std::span<const TraceEvent> events, const std::string& process_name);
void write_trace(const std::string& path, std::span<const TraceEvent> events,
                 const std::string& process_name);

}  // namespace furrow::observe
