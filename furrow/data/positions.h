// Which global sample positions a rank's microbatches cover: a pure function of (share, start, k).
//
//   Share share{.sizes = {8, 8}, .offsets = {16, 24}, .stride = 32};   // microbatches 2 and 3 of 4
//   share.at(start, /*k=*/3)  ->  positions [start + 32 + 24, start + 32 + 32)
//
// Nothing is dealt out: whoever knows the share knows the samples, so a run goes on with any number of ranks
// from one integer.
#pragma once

#include <cstdint>
#include <vector>

namespace furrow::data {

struct PositionRange {
  int64_t begin = 0;
  int64_t size = 0;  // samples; 0: behind the end
  friend bool operator==(const PositionRange&, const PositionRange&) = default;
};

// The microbatches of one rank in each step.
struct Share {
  std::vector<int64_t> sizes = {};  // samples of each, > 0
  std::vector<int64_t> offsets =
      {};              // of each from the step's first sample, ascending; empty: one after another
  int64_t stride = 0;  // samples of a step over all ranks; 0: those of `sizes`

  // The k-th microbatch of the rank, steps one after the other, the first of which begins at `start`; cut at
  // `end` (-1: endless).  Begins ascend with k.
  PositionRange at(int64_t start, int64_t k, int64_t end = -1) const;
  // Error{internal} unless the microbatches are disjoint, in order and inside their step.
  void check() const;
};

}  // namespace furrow::data
