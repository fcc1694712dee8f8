// Gradients: added along the tree as soon as two nodes are at hand, reduced over the ranks as soon as a unit
// has what an exchange takes, so that both overlap with the rest of backward.  Reductions that run once a
// step do so from the last unit to the first, whatever the schedule completes first: ranks with fewer turns
// must not reduce in another order.
//
//   one rank             adds
//   data parallel        adds; after the last microbatch: reduce to pieces, gather
//   ZeRO-1               adds; after the last microbatch: reduce to shards
//   ZeRO-2, ZeRO-3       every microbatch: reduce to shards; adds on shards
//   and replicas of it   then reduce the shards to pieces, gather
#include <map>
#include <set>
#include <utility>

#include "furrow/plan/draft.h"
#include "furrow/plan/gradient_tree.h"

namespace furrow::plan {
namespace {

class ReducePass {
 public:
  explicit ReducePass(Draft* draft)
      : draft_(*draft),
        placement_(draft->placement()),
        tree_(placement_, draft->microbatches()),
        next_(draft->units() - 1),
        turns_left_(draft->spec.units.size(), draft->turns) {}

  void run() {
    std::vector<DraftInstruction> before = std::move(draft_.list);
    draft_.list.clear();
    draft_.list.reserve(before.size() * 2);
    for (DraftInstruction& each : before) {
      draft_.list.push_back(std::move(each));
      if (draft_.list.back().instruction.op == Op::kBackwardWeight) after_weight(draft_.list.back());
    }
    finish_waiting({}, -1);
  }

 private:
  struct Use {
    int32_t unit, use;
    friend auto operator<=>(const Use&, const Use&) = default;
  };
  struct Sums {  // to be emitted later: they wait for communication
    Use use;
    std::vector<NodeSum> sums;
  };

  NodeSet& nodes_of(Use use) { return nodes_.try_emplace(use, tree_).first->second; }

  // `weight` by value: emitting moves the list.
  void after_weight(DraftInstruction weight) {
    const bool rounds = placement_.reduces_each_microbatch();
    const int32_t unit = weight.instruction.unit;
    std::vector<Sums> waiting;
    for (const Value& leaf : weight.instruction.writes) {
      const Use use{leaf.unit, leaf.index};
      if (rounds) {
        waiting.push_back(reduce_round(use, leaf, weight));
      } else {
        add(use, nodes_of(use).insert({leaf.begin, leaf.end}), Part::kWhole);
      }
    }
    const bool last = --turns_left_[unit] == 0;
    if (rounds) finish_waiting(std::move(waiting), last ? unit : -1);
    if (!rounds && last) complete(unit);
  }

  // The leaf of every rank of the shard group; sums over rounds come once the exchange has had time.
  Sums reduce_round(Use use, const Value& leaf, const DraftInstruction& weight) {
    const Range round = round_of(placement_, draft_.microbatches(), weight.turn);
    Instruction& reduce = draft_.emit_comm(Op::kReduceGrads, use.unit, GroupAxis::kShard);
    if (!weight.ghost) reduce.reads = {leaf};
    Sums sums{use, {}};
    // The nodes of a round alone, then with those of the rounds before.
    for (const Range& node : tree_.cover(round)) {
      reduce.writes.push_back(gradient_value(use.unit, use.use, node.begin, node.end, Part::kShard));
      for (const NodeSum& sum : nodes_of(use).insert(node)) sums.sums.push_back(sum);
    }
    return sums;
  }

  // What waited since the unit before: its exchange has run beside this unit's backward.  `next` is the last
  // of unit `completes`, -1: of none.
  void finish_waiting(std::vector<Sums> next, int32_t completes) {
    for (const Sums& waiting : waiting_) add(waiting.use, waiting.sums, Part::kShard);
    if (completes_ >= 0) complete(completes_);
    waiting_ = std::move(next);
    completes_ = completes;
  }

  // The weight gradients of the unit are there.
  void complete(int32_t unit) {
    completed_.insert(unit);
    for (; next_ >= 0; --next_) {
      const UnitFacts& facts = draft_.facts.units[next_];
      if (!placement_.holds(next_) || !facts.trains() || facts.backward_phase != draft_.phase) continue;
      if (!completed_.contains(next_)) return;
      if (facts.steps) reduce_at_end({next_, 0});
      for (const TiedUse& tied : facts.ties) reduce_at_end({tied.owner_unit, tied.use});
    }
  }

  void add(Use use, const std::vector<NodeSum>& sums, Part part) {
    const auto node = [&](Range range) {
      return gradient_value(use.unit, use.use, range.begin, range.end, part);
    };
    for (const NodeSum& sum : sums) {
      Instruction& add = draft_.emit(Op::kAdd, use.unit);
      add.reads = {node(sum.left), node(sum.right)};
      add.writes = {node(sum.sum)};
    }
  }

  void reduce(Use use, GroupAxis axis, std::pair<Part, Part> parts, const std::vector<Range>& from,
              const std::vector<Range>& to) {
    Instruction& reduce = draft_.emit_comm(Op::kReduceGrads, use.unit, axis);
    for (const Range& node : from) {
      reduce.reads.push_back(gradient_value(use.unit, use.use, node.begin, node.end, parts.first));
    }
    for (const Range& node : to) {
      reduce.writes.push_back(gradient_value(use.unit, use.use, node.begin, node.end, parts.second));
    }
  }

  void reduce_at_end(Use use) {
    if (placement_.shards() > 1 && !placement_.reduces_each_microbatch()) {
      const std::vector<Range> sums = tree_.cover(replica_block(placement_, draft_.microbatches()));
      reduce(use, GroupAxis::kShard, {Part::kWhole, Part::kShard}, nodes_of(use).nodes(), sums);
    }
    reduce_replicas(use);
  }

  void reduce_replicas(Use use) {
    if (placement_.replicas() == 1) return;
    const Part part = placement_.step_part();
    reduce(use, GroupAxis::kReplicate, {part, Part::kPiece},
           tree_.cover(replica_block(placement_, draft_.microbatches())), {tree_.root()});
    if (!draft_.facts.units[use.unit].uses_by_others.empty()) return;  // generate_step gathers the total
    Instruction& gather = draft_.emit_comm(Op::kGatherGrads, use.unit, GroupAxis::kReplicate);
    gather.reads = {draft_.final_of(use.unit, Part::kPiece)};
    gather.writes = {draft_.final_of(use.unit, part)};
  }

  Draft& draft_;
  const Placement& placement_;
  const GradientTree tree_;
  int32_t next_;                     // units behind it are reduced
  std::vector<int32_t> turns_left_;  // by unit
  std::set<int32_t> completed_;
  std::map<Use, NodeSet> nodes_;  // whole ones on the rank, or shards where each microbatch is reduced
  std::vector<Sums> waiting_;
  int32_t completes_ = -1;  // the unit that they complete
};

}  // namespace

void add_and_reduce(Draft* draft) { ReducePass(draft).run(); }

}  // namespace furrow::plan
