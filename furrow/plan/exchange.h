// Who sends what in a communication instruction: facts of the program text alone, the same on every member.
#pragma once

#include <vector>

#include "furrow/plan/gradient_tree.h"
#include "furrow/plan/program.h"

namespace furrow::plan {

// A reduce_grads.  Member i contributes its nodes (gradients of `given_part`); each member receives its slice
// of every other member's nodes and adds them, and its own, along the tree, until only `result` is left, of
// which it keeps its `kept_part`.
struct Exchange {
  std::vector<int> ranks;                 // of the world, by member
  size_t self = 0;                        // which member the program's rank is
  std::vector<std::vector<Range>> nodes;  // by member; empty: no microbatch in this round
  std::vector<Range> result;
  Part given_part = Part::kWhole;
  Part kept_part = Part::kWhole;
  // One node a member, one result, and the tree over the nodes is the tree over members that splits at the
  // largest power of two below their number: a reduce-scatter in that order gives the same bits.
  bool plain = false;
};

// REQUIRES: a reduce_grads of the program, over dp_replicate or dp_shard, that writes something.
Exchange exchange_of(const Program& program, const Instruction& instruction);

// The additions of an exchange on one member, in order; `tree` is GradientTree(program.placement, k).
std::vector<NodeSum> exchange_sums(const Exchange& exchange, const GradientTree& tree);

}  // namespace furrow::plan
