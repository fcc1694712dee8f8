// Buckets: units that follow one another and are small together share collectives, whose price is a round
// between the ranks, whatever they bring.
//
// Units stay what is run, stepped, recomputed and stored.  What a bucket changes is where their buffers are
// cut over ranks (plan/slices.h cuts the buffers of a bucket end to end, as one), where values lie (end to
// end in one slot, plan/buffers.h), and the order of communication: instructions of one operation on
// neighbours of a bucket stand right behind one another, and are then one collective.  The last one of such a
// run starts it, those before it wait for it.  Pure functions, thread safe.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "furrow/plan/flat_layout.h"
#include "furrow/plan/program.h"
#include "furrow/plan/slices.h"

namespace furrow::plan {

// Placement::buckets: runs of a chain, of up to `bytes` of gradients as they travel, frozen parameters
// counted. A unit is alone whose optimizer is on the host or whose gradient is summed over uses; one bucket
// computes in one type, and all of it trains or none of it.
std::vector<int32_t> buckets_of(const ModelSpec& spec, int64_t bytes);

// For each instruction the last one of the run that it is in; itself where that is no run.
std::vector<int32_t> run_ends(const FlatLayout& flat, const Program& program);

// What lies end to end in a run: slice i of a buffer of sizes[i] elements, as a slice of all of them.  Those
// that are not empty follow one another without gaps, else Error{internal}.
Slice end_to_end(std::span<const Slice> slices, std::span<const int64_t> sizes);

}  // namespace furrow::plan
