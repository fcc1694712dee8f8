// Checks the programs of all ranks together, which verify() cannot: each is checked alone first.  Throws
// Error{failed_precondition} that names rank and instruction ("rank 3 #12 reduce_grads u1 over dp_shard:
// ...").
//
//  * programs[r] is rank r's, all of one name, layout, stage, tree and batch;
//  * every microbatch is run by exactly one rank of each pp and tp coordinate;
//  * ranks of a tensor axis come to the instructions that communicate inside in one order, on the same
//  microbatches;
//  * from one pp coordinate to another, as much is received as is sent, in the same order;
//  * nobody waits in a circle, though a send ends only when its receive does, and an instruction waits for
//  the communication
//    that uses one of its slots: run in that way, every program comes to its end (no deadlock);
//  * on each axis, the ranks of a group run the same communication in the same order, with operands that
//  match, and as one what the others run as one (buckets.h);
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
  int64_t transfers = 0;    // each counted once
};

WorldReport verify_world(std::span<const Program> programs, const ModelSpec& spec);

}  // namespace furrow::plan
