// The one order in which the gradients of k microbatches are added.
//
// A node is a range [b,e) of microbatches; the root is [0,k).  The canonical tree splits a node at the
// largest power of two below its size, whatever runs where.  The tree by ranks adds what a rank has first,
// then the sums of the ranks: it splits a node that spans several blocks (of replicas, then of ranks) between
// two of them, at the largest power of two below their number, and goes on canonically inside a block.  It
// depends on the layout, and moves one node a rank.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "furrow/plan/share.h"

namespace furrow::plan {

// Where the canonical tree splits a node.  REQUIRES: two or more microbatches.
int32_t tree_split(int32_t begin, int32_t end);

class GradientTree {
 public:
  explicit GradientTree(int32_t k);                     // canonical
  GradientTree(const Placement& placement, int32_t k);  // of placement.tree

  int32_t split(Range node) const;  // REQUIRES: a node of the tree, of two or more microbatches
  bool is_node(Range range) const { return range == root() || parent(range).has_value(); }
  std::optional<Range> parent(Range node) const;  // nullopt: the root, or no node
  std::vector<Range> cover(Range range) const;    // the largest nodes inside, from left to right
  Range root() const { return {0, k_}; }

 private:
  int32_t k_;
  std::vector<std::vector<int32_t>> borders_;  // of each level of blocks, coarse first: begins, then k
};

// An addition that the tree asks for: left plus right is sum.
struct NodeSum {
  Range left, right, sum;
};

// Forms sums as soon as both children are at hand: the one rule for accumulation on a rank, on shards and
// across replicas.
class NodeSet {
 public:
  explicit NodeSet(const GradientTree& tree) : tree_(&tree) {}
  std::vector<NodeSum> insert(Range node);                    // what can be added now, in this order
  const std::vector<Range>& nodes() const { return nodes_; }  // at hand, sorted

 private:
  const GradientTree* tree_;
  std::vector<Range> nodes_;
};

// Whether every exchange of a step moves exactly one node of the canonical tree for each rank that has
// microbatches: then strict order costs no byte.
bool is_aligned(const Placement& placement, int32_t k);

}  // namespace furrow::plan
