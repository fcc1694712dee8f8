// Measures the collectives of a world, as nccl-tests does.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/base/array.h"
#include "furrow/base/table.h"
#include "furrow/comm/algorithm.h"
#include "furrow/comm/communicator.h"

namespace furrow::app {

struct CommBenchOptions {
  std::vector<std::string> operations;                // of comm_bench_operations(); empty: all
  int64_t least_bytes = 1024, most_bytes = 16 << 20;  // sizes, each four times the one before
  double seconds_per_row = 0.2;
  bool canonical = true;  // floating sums in the canonical tree only; false where an algorithm is forced
};

// Sizes are those of nccl-tests: the whole buffer, all slices of reduce_scatter, all_gather and all_to_all.
struct CommBenchRow {
  std::string operation, algorithm;
  std::string transport;  // between all pairs of ranks: "shm", "shm+tcp"
  int ranks = 0;
  int64_t bytes = 0;
  double p50_us = 0, p99_us = 0;  // of one call, until the slowest rank is done
  int64_t wire_bytes = 0;         // of one call, the rank with the most
  int64_t bound_bytes = 0;        // the least that it could be
  double algorithm_gbps() const { return static_cast<double>(bytes) / (p50_us * 1e3); }
  // What each rank's wire carries: algorithm_gbps() times 2(n-1)/n for all_reduce, (n-1)/n for
  // reduce_scatter, all_gather and all_to_all, 1 else (nccl-tests, doc/PERFORMANCE.md).
  double bus_gbps() const;
};

std::vector<std::string> comm_bench_operations();  // "all_reduce", ..., "send_recv"

// Every rank calls it with the same options and gets the same rows.  Float32, sums.
// Error{invalid_argument}: an unknown operation names the nearest.
std::vector<CommBenchRow> bench_comm(comm::Communicator& communicator, const CommBenchOptions& options);

// Measures every algorithm and puts the fastest ones for this number of ranks and these wires into the table
// that the communicator chooses by.  Every rank calls it with the same options and gets the same table.
// Returns these wires.
comm::Wires tune_comm(comm::Communicator& communicator, const CommBenchOptions& options);

Table comm_bench_table(const std::vector<CommBenchRow>& rows);
std::vector<CommBenchRow> parse_comm_bench(
    const std::string& json);  // what comm_bench_table(...).json() wrote

}  // namespace furrow::app
