// What a program costs before it runs: FLOPs by operation and planned memory by kind.  Plain numbers; apps/
// prints them.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "furrow/plan/model_spec.h"
#include "furrow/plan/program.h"

namespace furrow::plan {

struct UnitQuote {
  std::string name;
  std::string kind;
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
  int64_t total_bytes() const;                     // sum over kinds: an upper bound, peaks need not coincide
};

// Verifies the program first, with verify()'s errors.
Quote quote(const Program& program, const ModelSpec& spec);

}  // namespace furrow::plan
