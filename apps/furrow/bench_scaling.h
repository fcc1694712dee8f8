// How training speeds up over ranks of this machine.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "furrow/base/table.h"

namespace furrow::app {

struct ScalingOptions {
  std::string config;
  std::vector<std::string> overrides;
  std::vector<int> ranks;
  bool strong = false;  // the global batch stays; otherwise each rank brings the batch of one (weak)
  int repeats = 7;      // medians of these; all measurements take turns in each
  int64_t steps = 20;   // of each run, the first not counted
};

struct Spread {
  double median = 0, least = 0, most = 0;
};
Spread spread_of(std::vector<double> values);  // REQUIRES: not empty

// Rates are samples per second.  One thread per rank, each on its own cores.
struct ScalingRow {
  int ranks = 0;
  Spread rate;         // of all ranks
  Spread independent;  // of as many one-rank runs at the same time, added up
  Spread alone;        // of one one-rank run with the machine to itself
  Spread efficiency;   // rate / independent, of each repeat
  // The same over as many times the slowest of the independent runs: ranks are in step with the slowest core.
  Spread efficiency_slowest;
  double straggler_wait = 0;  // observe::RankAudit; median of the repeats, 0 of one rank
  double efficiency_alone() const { return rate.median / (ranks * alone.median); }
};

// Starts `furrow train` on this program's ranks, in temporary run folders.  REQUIRES: as launch().
// Error{invalid_argument}: the batch does not divide; failed_precondition: a training failed, with its
// reason.
std::vector<ScalingRow> bench_scaling(const ScalingOptions& options);

Table scaling_table(const std::vector<ScalingRow>& rows, bool strong);

}  // namespace furrow::app
