// Under which name a profile has what an instruction of communication takes (plan/profile.h).
#pragma once

#include <string_view>

#include "furrow/plan/placement.h"
#include "furrow/plan/program.h"

namespace furrow::plan {

// That of the operation; a reduce_grads is three things, each with a time of its own: one pass with the
// gather behind it (replicas), into the rank's part of the buffer once a step, or of every microbatch into
// memory of its own.  "replicate.reduce_grads", "shard.reduce_grads", "microbatch.reduce_grads".
std::string_view measured_name(Op op, GroupAxis axis, const Placement& placement);

// Of which it is a variety, as profiles had it that did not tell them apart; else the name itself.
std::string_view without_variety(std::string_view name);

}  // namespace furrow::plan
