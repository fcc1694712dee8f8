// What `furrow plan --print timeline|memory-timeline`, `--trace` and `--draw` show: one step, simulated.
#pragma once

#include <string>

#include "furrow/base/table.h"
#include "furrow/config/config.h"
#include "furrow/plan/cost.h"

namespace furrow::app {

struct TimelineRequest {
  int ranks = 1;
  int rank = 0;            // whose timeline the table is
  std::string trace_path;  // gets the timelines of all simulated ranks; empty: no file
  std::string drawing;     // gets the rank's timeline and memory as SVG; empty: no file
  bool memory = false;     // the table is of memory by kind instead
  std::string machine;     // that `costs` are of, for the reader
};

// Instructions by their start, of the layout of [parallelism].  Lines on the log say how long the step is,
// on what and by which costs, and whom ranks of a large world stand for; a trace of more than 100,000
// instructions gets those that begin first and last.  REQUIRES: `rank` is one of them; the cluster of `costs`
// holds them.  Error{invalid_argument}: a rank of a large world that no representative is simulated for.
Table simulated_timeline(const config::Config& config, const plan::ModelSpec& model, const plan::Costs& costs,
                         const TimelineRequest& request);

}  // namespace furrow::app
