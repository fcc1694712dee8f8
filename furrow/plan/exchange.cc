#include "furrow/plan/exchange.h"

#include <algorithm>
#include <bit>

#include "furrow/base/error.h"

namespace furrow::plan {
namespace {

int32_t microbatches(const Program& program) { return static_cast<int32_t>(program.microbatch_sizes.size()); }

// What a rank brings to the exchange.  Over dp_shard: the leaf of its turn in the round that `result` covers,
// or the nodes of its block.  Over dp_replicate: the nodes of its replica, or of its block where dp_shard
// is 1.
std::vector<Range> nodes_of(const Placement& placement, const GradientTree& tree, GroupAxis axis,
                            Range round) {
  const int32_t k = tree.root().end;
  if (axis == GroupAxis::kReplicate) return tree.cover(replica_block(placement, k));
  if (!placement.reduces_each_microbatch()) return tree.cover(rank_block(placement, k));
  const int32_t turn = round.begin + placement.shard();
  if (turn >= round.end) return {};
  return {{turn, turn + 1}};
}

// Whether the nodes of members [first, last), which make up `sum`, are added as members are.
bool added_by_members(const Exchange& exchange, const GradientTree& tree, size_t first, size_t last,
                      Range sum) {
  if (last - first == 1) return exchange.nodes[first][0] == sum;
  const size_t middle = first + std::bit_floor(last - first - 1);
  const int32_t border = exchange.nodes[middle][0].begin;
  return tree.split(sum) == border && added_by_members(exchange, tree, first, middle, {sum.begin, border}) &&
         added_by_members(exchange, tree, middle, last, {border, sum.end});
}

bool is_plain(const Exchange& exchange, const GradientTree& tree) {
  const bool one_each = std::all_of(exchange.nodes.begin(), exchange.nodes.end(),
                                    [](const auto& nodes) { return nodes.size() == 1; });
  return one_each && exchange.result.size() == 1 &&
         added_by_members(exchange, tree, 0, exchange.nodes.size(), exchange.result[0]);
}

}  // namespace

Exchange exchange_of(const Program& program, const Instruction& instruction) {
  FURROW_CHECK(instruction.op == Op::kReduceGrads && !instruction.writes.empty(), "no exchange of gradients");
  const Placement& placement = program.placement;
  const GradientTree tree(placement, microbatches(program));
  const Range all{instruction.writes.front().begin, instruction.writes.back().end};
  Exchange exchange;
  exchange.ranks = group_ranks(placement, instruction.axis);
  for (size_t i = 0; i < exchange.ranks.size(); ++i) {
    if (exchange.ranks[i] == placement.rank) exchange.self = i;
    exchange.nodes.push_back(
        nodes_of(placement_of(placement, exchange.ranks[i]), tree, instruction.axis, all));
  }
  for (const Value& value : instruction.writes) exchange.result.push_back({value.begin, value.end});
  const bool pieces = instruction.axis == GroupAxis::kReplicate;
  exchange.kept_part = pieces ? Part::kPiece : Part::kShard;
  exchange.given_part = pieces ? placement.step_part() : Part::kWhole;
  exchange.plain = is_plain(exchange, tree);
  return exchange;
}

std::vector<NodeSum> exchange_sums(const Exchange& exchange, const GradientTree& tree) {
  NodeSet set(tree);
  std::vector<NodeSum> sums;
  for (const std::vector<Range>& nodes : exchange.nodes) {
    for (const Range& node : nodes) {
      for (const NodeSum& sum : set.insert(node)) sums.push_back(sum);
    }
  }
  return sums;
}

}  // namespace furrow::plan
