// The layout of a run and, of one on several ranks, what it sent, against what it had to, and what that cost.
// Part of summary.json.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "furrow/base/text.h"
#include "furrow/observe/json.h"

namespace furrow::observe {

// One kind of collective in the training steps of this process.
struct CollectiveAudit {
  std::string name;   // "reduce_scatter"
  int64_t calls = 0;  // of the rank with the most
  int64_t wire_bytes = 0,
          bound_bytes = 0;  // of all ranks: what crossed, frames included; the least that could
};

struct RankAudit {
  int ranks = 1;
  std::string layout;         // "dp_replicate 2, dp_shard 1"
  std::string deterministic;  // "on: ..." or "off: ...", with the rule that decided
  // What follows: of several ranks alone.
  std::string backend;  // [comm]: "native"; empty: not noted
  std::string sums;     // who adds gradients between devices; empty: the host, with the backend's algorithms
  int64_t steps = 0;    // that the figures below are of
  std::vector<CollectiveAudit> bytes;
  // Of a pipeline: 1 - computing time / (ranks x makespan), from the first forward to the last weight
  // gradient of a step; mean over steps.
  std::optional<double> bubble;
  double exposed_communication = 0;  // share of the steps' time in which a rank only waited, mean over ranks
  // Of it the share in which it waited for ranks that came later to an operation; the rest the operations
  // took.  Absent where ranks take part in different ones, as in a pipeline.
  std::optional<double> straggler_wait;
  double comm_to_compute = 0;        // time of communication, hidden or not, over the rest of the steps' time
  // What operations cost however little they move: those of a step (of the rank with the most), and the
  // median time of one of 8 bytes over all ranks, measured after the last step.
  double operations_per_step = 0;
  double operation_latency_us = 0;
  double step_seconds = 0;  // mean over the steps and ranks
  double latency_overhead()
      const;  // their product's share of the steps' time: the most that merging can save
  // Samples of its own microbatches over the time in which it did not wait: a slow rank shows.
  std::vector<double> rank_samples_per_second;
  // samples_per_second over `ranks` times that of a run of one rank, where one of the same recipe, threads
  // and machine is known: with the same global batch (strong), and with the same share of it a rank (weak).
  std::optional<double> scaling_efficiency, weak_scaling_efficiency;
};

void write_audit(JsonWriter& json, const RankAudit& audit);     // its fields, into an open object
std::optional<RankAudit> read_audit(const JsonValue& summary);  // absent without `ranks`.  Error{data_loss}
std::vector<std::array<std::string, 3>> audit_rows(const RankAudit& audit);  // name, value, second value

}  // namespace furrow::observe
