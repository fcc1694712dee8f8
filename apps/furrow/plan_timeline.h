// What `furrow plan --print timeline|memory-timeline`, `--trace` and `--draw` show: one step, simulated on
// this machine.
#pragma once

#include <string>

#include "furrow/base/table.h"
#include "furrow/config/config.h"

namespace furrow::app {

struct TimelineRequest {
  int ranks = 1;
  int rank = 0;            // whose timeline the table is
  std::string trace_path;  // gets the timelines of all simulated ranks; empty: no file
  std::string drawing;     // gets the rank's timeline and memory as SVG; empty: no file
  bool memory = false;     // the table is of memory by kind instead
};

// Instructions by their start.  Times from the profile of this machine where there is one, else analytic; a
// line on the log says which.  REQUIRES: `rank` is one of them.  Error{invalid_argument}: a rank of a large
// world that no representative is simulated for.
Table simulated_timeline(const config::Config& config, const TimelineRequest& request);

}  // namespace furrow::app
