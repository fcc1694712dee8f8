// Memory of communication that no value of a program stands for.  Pure functions, thread safe.
#pragma once

#include <cstdint>

#include "furrow/plan/model_spec.h"
#include "furrow/plan/program.h"

namespace furrow::plan {

// What a rank receives other ranks' nodes in until it has added them, in exchanges where more than one node a
// rank travels (exchange.h: not plain).  A buffer is free for the next exchange once something touches what
// the exchange reads or writes, and stays for the whole run.  REQUIRES: a program that verify() accepts.
int64_t exchange_staging_bytes(const Program& program, const ModelSpec& spec);

// What a rank of devices receives other ranks' slices in where a group adds them along the tree there
// (comm/nccl/exchange_tree.cc): of one reduction at a time, in pieces, and kept for the run.  Nothing where
// NCCL adds by itself.  REQUIRES: as above.
int64_t device_sums_bytes(const Program& program, const ModelSpec& spec);

// What a rank copies its part to where the other ranks of a tensor axis see it, in shared memory: blocks of a
// MiB at least, kept for the run (comm/call.cc).  `part`: what one of the ranks runs; of another 0.
int64_t axis_workspace_bytes(const ModelSpec& part, int64_t samples);

}  // namespace furrow::plan
