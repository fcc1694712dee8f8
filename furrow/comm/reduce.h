// The arithmetic of reductions, chosen for the machine at run time.  Pure and thread safe.  The rules of each
// data type stand in collective.h; the bits do not depend on the instruction set or on how a buffer is cut.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "furrow/base/array.h"
#include "furrow/comm/collective.h"

namespace furrow::comm {

// What is reduced, and by how much avg divides.
struct ReduceKind {
  DType dtype = DType::kF32;
  Reduction reduction = Reduction::kSum;
  int ranks = 1;
};

// out[i] = a[i] (+) b[i], for n elements; avg adds.  out may be a or b.
void combine(const ReduceKind& kind, int64_t n, const std::byte* a, const std::byte* b, std::byte* out);

// avg: divides by kind.ranks; the other reductions: nothing.
void finish(const ReduceKind& kind, int64_t n, std::byte* data);

// The reduction of all sources in the canonical tree, finished, into every destination; one pass over memory.
// A destination may be a source, whole.  REQUIRES: at least one source and one destination.
void reduce_tree(const ReduceKind& kind, int64_t n, std::span<const std::byte* const> sources,
                 std::span<std::byte* const> destinations);

// m of tree(b, e) = tree(b, m) + tree(m, e).  REQUIRES: e - b >= 2.
int tree_split(int b, int e);

}  // namespace furrow::comm
