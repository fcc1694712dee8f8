// Checks a program before it runs.  Throws Error{failed_precondition} that names the instruction ("#12 add
// u3: ...").
//
//  * every value is written exactly once, before it is read, and never read after it is dropped;
//  * the kinds that an operation reads and writes are those of plan/ops.cc;
//  * gradient nodes are added along the canonical tree: each microbatch of each use enters the total exactly
//  once;
//  * every unit with parameters is stepped exactly once, under the finite predicate, from the total gradient;
//  * at most two units at a time are on their way through the host's memory;
//  * two values share a slot only when their lives do not overlap.
#pragma once

#include <array>
#include <cstdint>

#include "furrow/plan/flat_layout.h"
#include "furrow/plan/model_spec.h"
#include "furrow/plan/program.h"

namespace furrow::plan {

struct VerifyReport {
  std::array<int64_t, kMemoryKinds> peak_bytes{};  // planned, by MemoryKind, with slots reused
  int64_t instructions = 0;
};

VerifyReport verify(const Program& program, const ModelSpec& spec);

}  // namespace furrow::plan
