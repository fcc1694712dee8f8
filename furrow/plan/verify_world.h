// Checks the programs of all ranks together, which verify() cannot: each is checked alone first.  Throws
// Error{failed_precondition} that names rank and instruction ("rank 3 #12 reduce_grads u1 over dp_shard:
// ...").
//
//  * programs[r] is rank r's, all of one name, layout, stage, tree and batch;
//  * every microbatch is run by exactly one rank;
//  * on each axis, the ranks of a group run the same communication in the same order, with operands that
//  match;
//    run in program order, and no instruction waited for by another can wait for it in turn (no deadlock);
//  * what the members of an exchange bring adds up to what they write, and the parts that members keep follow
//  one
//    another without gap or overlap.
#pragma once

#include <span>

#include "furrow/plan/model_spec.h"
#include "furrow/plan/program.h"

namespace furrow::plan {

struct WorldReport {
  int64_t collectives = 0;  // each counted once, whatever the size of its group
};

WorldReport verify_world(std::span<const Program> programs, const ModelSpec& spec);

}  // namespace furrow::plan
