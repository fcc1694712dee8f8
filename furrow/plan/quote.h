// What a program costs before it runs: FLOPs by operation and planned memory by kind.  Plain numbers; apps/
// prints them.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "furrow/plan/model_spec.h"
#include "furrow/plan/program.h"

namespace furrow::plan {

struct TrainOptions;  // compile.h

struct UnitQuote {
  std::string name;
  std::string kind;
  DType compute = DType::kF32;
  Shape output;              // -1 for the microbatch
  int64_t parameters = 0;    // own ones: without tied ones
  double forward_flops = 0;  // per sample
  int64_t output_bytes = 0;  // per sample
  int64_t saved_bytes = 0;   // per sample; 0 where the program computes the unit again
  bool recomputed = false;
};

// FLOPs of a whole run of the program, one multiply-add counting two.  Optimizer, adds and losses are left
// out: they are linear in the parameters, not in the work on samples.
struct StepFlops {
  double forward = 0;
  double recompute = 0;
  double backward_input = 0;
  double backward_weight = 0;
  double total() const { return forward + recompute + backward_input + backward_weight; }
};

// One kind of communication over one axis.  Bytes are payload that a rank receives, a step; a rank sends as
// much in the mean over its group.
struct CollectiveQuote {
  Op op = Op::kReduceGrads;
  GroupAxis axis = GroupAxis::kNone;
  int64_t count = 0;       // instructions
  int64_t wire_bytes = 0;  // this rank
  double mean_bytes = 0;   // mean over the members of its groups
  double bound_bytes = 0;  // what the mean cannot be below: each rank's sum, or each slice, travels once
  friend bool operator==(const CollectiveQuote&, const CollectiveQuote&) = default;
};

// Copies of one direction between a device and its host, of this rank, a step.
struct CopyQuote {
  Op op = Op::kCopyDown;
  int64_t count = 0;  // instructions
  int64_t bytes = 0;
};

// One item of the planned memory of a kind.
struct MemoryItem {
  MemoryKind kind = MemoryKind::kOther;
  std::string name;  // the kind's, and which of it: "gradients, final"
  int64_t bytes = 0;
};

// Parameters, gradients and optimizer state, as the layout divides them: p+g+o, p+g+o/N, p+(g+o)/N, (p+g+o)/N
// for data parallel and ZeRO-1, 2, 3 over N shards; p+t in place of p where a frozen teacher runs beside.
struct MemoryFormula {
  std::string text;                                     // "p+g+o/2"
  double parameters = 0, gradients = 0, optimizer = 0;  // bytes, a rank in the mean
  double teacher = 0;                                   // the same: its parameters, "t" in the text
};

struct Quote {
  std::string program;  // "train"
  std::string architecture;
  std::vector<UnitQuote> units;
  int64_t parameters = 0;
  int64_t microbatches = 0;
  int64_t samples = 0;
  int64_t instructions = 0;
  StepFlops flops;
  std::array<int64_t, kMemoryKinds> peak_bytes{};  // by MemoryKind, as verify() reports
  int64_t total_bytes() const;  // sum over kinds, without host_bytes: an upper bound, peaks need not coincide
  int64_t host_bytes = 0;       // of them, what lies in the host's memory beside a device: the optimizer's

  Placement placement;
  std::string deterministic;  // one line: whether the layout may change bits, by which rule, at what cost
  std::vector<CollectiveQuote> collectives;  // by operation, then axis; empty in a world of one
  std::vector<CopyQuote> copies;             // down, up; empty: nothing is on the host
  double data_parallel_bytes = 0;            // what data parallelism over as many ranks moves, for comparison
  std::vector<MemoryItem> memory;            // of flat buffers
  MemoryFormula formula;
  double communication_bytes() const;  // sum of mean_bytes
};

// What all communication of a step brings a rank, in the mean, where `deterministic` is strict and where it
// is off.
struct TreeCost {
  double strict_bytes = 0, off_bytes = 0;
};
// Of the layout of `options`, which it compiles once more.  Nothing where both bring the same: shares are
// aligned, or there is one data rank.
std::optional<TreeCost> tree_cost(const ModelSpec& spec, const Layout& layout, const TrainOptions& options);

// The line `Quote::deterministic`; with what the canonical tree costs, where that is given.
std::string deterministic_line(const Placement& placement, int32_t k,
                               const std::optional<TreeCost>& cost = std::nullopt);

// Verifies the program first, with verify()'s errors.
Quote quote(const Program& program, const ModelSpec& spec);

}  // namespace furrow::plan
