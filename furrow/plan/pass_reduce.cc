// Gradients: added along the tree as soon as two nodes are at hand, reduced over the ranks as soon as a
// bucket has what an exchange takes, so that both overlap with the rest of backward.  Reductions that run
// once a step do so from the last bucket to the first, whatever the schedule completes first: ranks with
// fewer turns must not reduce in another order.
//
//   one rank             adds
//   data parallel        adds; after the last microbatch: reduce to pieces, gather
//   ZeRO-1               adds; after the last microbatch: reduce to shards
//   ZeRO-2, ZeRO-3       every microbatch: reduce to shards; adds on shards
//   and replicas of it   then reduce the shards to pieces, gather
#include <algorithm>
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
    finish_waiting({}, {});
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
  struct Round {  // of a bucket and a turn, as far as it has come
    std::vector<DraftInstruction> weights;
    std::vector<int32_t> completes;  // units of which it is the last
  };

  NodeSet& nodes_of(Use use) { return nodes_.try_emplace(use, tree_).first->second; }

  // `weight` by value: emitting moves the list.
  void after_weight(DraftInstruction weight) {
    const int32_t unit = weight.instruction.unit;
    const bool last = --turns_left_[unit] == 0;
    if (placement_.reduces_each_microbatch()) {
      after_round(std::move(weight), last);
      return;
    }
    for (const Value& leaf : weight.instruction.writes) {
      const Use use{leaf.unit, leaf.index};
      add(use, nodes_of(use).insert({leaf.begin, leaf.end}), Part::kWhole);
    }
    if (last) complete(unit);
  }

  // Once the bucket has its gradients of the turn: what units own side by side, then what they tie.
  void after_round(DraftInstruction weight, bool last) {
    const auto bucket = reduced_with(weight.instruction.unit);
    Round& round = rounds_[{weight.turn, bucket.front()}];
    round.weights.push_back(std::move(weight));
    if (last) round.completes.push_back(round.weights.back().instruction.unit);
    if (round.weights.size() < bucket.size()) return;
    std::ranges::sort(round.weights, {}, [](const auto& each) { return each.instruction.unit; });
    std::vector<Sums> waiting;
    for (const bool own : {true, false}) {
      for (const DraftInstruction& each : round.weights) {
        for (const Value& leaf : each.instruction.writes) {
          if ((leaf.unit == each.instruction.unit && leaf.index == 0) == own)
            waiting.push_back(reduce_round({leaf.unit, leaf.index}, leaf, each));
        }
      }
    }
    finish_waiting(std::move(waiting), std::move(round.completes));
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

  // What waited since the bucket before: its exchange has run beside this one's backward.  `next` is the last
  // of the units `completes`.
  void finish_waiting(std::vector<Sums> next, std::vector<int32_t> completes) {
    for (const Sums& waiting : waiting_) add(waiting.use, waiting.sums, Part::kShard);
    for (const int32_t unit : completes_) complete(unit);
    waiting_ = std::move(next);
    completes_ = std::move(completes);
  }

  // The units of its bucket that this phase trains here, in order.
  std::vector<int32_t> reduced_with(int32_t unit) const {
    std::vector<int32_t> units;
    for (int32_t u = placement_.bucket_of(unit); u < placement_.bucket_end(unit); ++u) {
      const UnitFacts& facts = draft_.facts.units[u];
      const bool here = placement_.holds(u) && same_stage(placement_, u, unit);
      if (here && facts.trains() && facts.backward_phase == draft_.phase) units.push_back(u);
    }
    return units;
  }

  // The weight gradients of the unit are there.
  void complete(int32_t unit) {
    completed_.insert(unit);
    while (next_ >= 0) {
      const std::vector<int32_t> bucket = reduced_with(next_);
      if (bucket.empty() || next_ < bucket.front()) {  // below those that train, or nobody does
        --next_;
        continue;
      }
      for (const int32_t u : bucket) {
        if (!completed_.contains(u)) return;
      }
      reduce_at_end(bucket);
      next_ = bucket.front() - 1;
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

  // Of a bucket: what its units own side by side, then what they tie.
  void reduce_at_end(const std::vector<int32_t>& units) {
    std::vector<Use> own;
    for (const int32_t u : units) {
      if (draft_.facts.units[u].steps) own.push_back({u, 0});
    }
    reduce_at_end(own);
    for (const int32_t u : units) {
      for (const TiedUse& tied : draft_.facts.units[u].ties)
        reduce_at_end(std::vector<Use>{{tied.owner_unit, tied.use}});
    }
  }

  void reduce_at_end(const std::vector<Use>& uses) {
    const Range block = replica_block(placement_, draft_.microbatches());
    const Part part = placement_.step_part();
    if (placement_.shards() > 1 && !placement_.reduces_each_microbatch()) {
      for (const Use use : uses)
        reduce(use, GroupAxis::kShard, {Part::kWhole, Part::kShard}, nodes_of(use).nodes(),
               tree_.cover(block));
    }
    if (placement_.replicas() == 1) return;
    for (const Use use : uses)
      reduce(use, GroupAxis::kReplicate, {part, Part::kPiece}, tree_.cover(block), {tree_.root()});
    for (const Use use : uses) {
      if (!draft_.facts.units[use.unit].uses_by_others.empty()) continue;  // generate_step gathers the total
      Instruction& gather = draft_.emit_comm(Op::kGatherGrads, use.unit, GroupAxis::kReplicate);
      gather.reads = {draft_.final_of(use.unit, Part::kPiece)};
      gather.writes = {draft_.final_of(use.unit, part)};
    }
  }

  Draft& draft_;
  const Placement& placement_;
  const GradientTree tree_;
  int32_t next_;                     // units behind it are reduced
  std::vector<int32_t> turns_left_;  // by unit
  std::set<int32_t> completed_;
  std::map<Use, NodeSet> nodes_;  // whole ones on the rank, or shards where each microbatch is reduced
  std::vector<Sums> waiting_;
  std::vector<int32_t> completes_;                       // the units that they complete
  std::map<std::pair<int32_t, int32_t>, Round> rounds_;  // by turn and first unit
};

}  // namespace

void add_and_reduce(Draft* draft) { ReducePass(draft).run(); }

}  // namespace furrow::plan
