// Gradients that are added and travel in 16 bits.  A microbatch's is formed in float32, a leaf, and rounded
// to the tree's type at once; every sum of the tree is rounded again where it is formed, on one rank as on
// many. So all nodes are numbers of that type before any of them travels, and where they are added changes no
// bit. The step reads what the tree ends with in float32.
#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

#include "furrow/plan/draft.h"

namespace furrow::plan {
namespace {

bool is_final(const Value& value) {
  return value.kind == ValueKind::kGradient || value.kind == ValueKind::kTotal;
}

// `weight` forms leaves; what rounds them is appended to the list.
void round_leaves(DraftInstruction weight, std::vector<DraftInstruction>* list) {
  std::vector<DraftInstruction> rounds;
  for (Value& value : weight.instruction.writes) {
    DraftInstruction& round = rounds.emplace_back();
    round.turn = weight.turn;
    round.ghost = weight.ghost;
    round.instruction.op = Op::kRound;
    round.instruction.unit = value.unit;
    round.instruction.microbatch = weight.instruction.microbatch;
    round.instruction.writes = {value};
    value = leaf_value(value.unit, value.index, value.begin);
    round.instruction.reads = {value};
  }
  list->push_back(std::move(weight));
  std::move(rounds.begin(), rounds.end(), std::back_inserter(*list));
}

// `step`, or what brings the gradient to where the step is.
void widen_final(DraftInstruction step, std::vector<DraftInstruction>* list) {
  const auto final = std::find_if(step.instruction.reads.begin(), step.instruction.reads.end(), is_final);
  if (final == step.instruction.reads.end()) return list->push_back(std::move(step));
  const Value wide = wide_value(final->unit, final->part);
  DraftInstruction widen;
  widen.instruction.op = Op::kWiden;
  widen.instruction.unit = step.instruction.unit;
  widen.instruction.reads = {*final};
  widen.instruction.writes = {wide};
  *final = wide;
  list->push_back(std::move(widen));
  list->push_back(std::move(step));
}

}  // namespace

void round_gradients(Draft* draft) {
  std::vector<DraftInstruction> list;
  list.reserve(draft->list.size() * 2);
  for (DraftInstruction& each : draft->list) {
    if (each.instruction.op == Op::kBackwardWeight) {
      round_leaves(std::move(each), &list);
    } else if (each.instruction.op == Op::kStep || each.instruction.op == Op::kCopyDown) {
      widen_final(std::move(each), &list);
    } else {
      list.push_back(std::move(each));
    }
  }
  draft->list = std::move(list);
}

}  // namespace furrow::plan
