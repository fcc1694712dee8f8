// ZeRO-3: a unit's parameters are gathered before they are used, and freed by the reshard policy.  Freeing
// needs no instruction: a gathered value dies after its last use, so the policy is how many uses share a
// gather.  The units of a bucket are gathered with the first of them that is used.
#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include "furrow/plan/draft.h"

namespace furrow::plan {
namespace {

class GatherPass {
 public:
  GatherPass(Reshard reshard, Draft* draft)
      : reshard_(reshard), draft_(*draft), open_(draft->spec.units.size(), false) {}

  void run() {
    std::vector<DraftInstruction> before = std::move(draft_.list);
    draft_.list.clear();
    draft_.list.reserve(before.size() + before.size() / 2);
    for (size_t i = 0; i < before.size(); ++i) {
      DraftInstruction& each = before[i];
      const Op op = each.instruction.op;
      const int32_t unit = each.instruction.unit;
      if (uses(op)) use(std::span(before).subspan(i));
      draft_.list.push_back(std::move(each));
      if (uses(op) && frees(op, unit)) free(unit);
    }
  }

 private:
  static bool uses(Op op) { return op == Op::kForward || op == Op::kRecompute || op == Op::kBackwardInput; }

  // By the first instruction of `rest`.
  void use(std::span<DraftInstruction> rest) {
    for (Value& value : rest.front().instruction.reads) {
      if (value.kind != ValueKind::kParams) continue;
      const int32_t owner = value.unit;
      if (!open_[owner]) {
        for (const Value& each : gathered_with(value, rest)) gather(each);
      }
      value = gathered_value(owner, draft_.gathers[owner] - 1);
    }
  }

  // In order, the parameters of a bucket that are closed and that forward or backward comes to next, without
  // leaving the bucket.
  std::vector<Value> gathered_with(const Value& params, std::span<const DraftInstruction> rest) const {
    std::vector<Value> together = {params};
    const auto same_bucket = [&](int32_t unit) {
      return draft_.placement().bucket_of(unit) == draft_.placement().bucket_of(params.unit);
    };
    const bool forward = rest.front().instruction.op == Op::kForward;
    for (const DraftInstruction& each : rest) {
      const Instruction& other = each.instruction;
      if (!uses(other.op)) continue;
      if (each.turn != rest.front().turn || (other.op == Op::kForward) != forward || !same_bucket(other.unit))
        break;
      for (const Value& value : other.reads) {
        const bool wanted = value.kind == ValueKind::kParams && value.index == params.index &&
                            same_bucket(value.unit) && !open_[value.unit];
        if (wanted && std::ranges::find(together, value) == together.end()) together.push_back(value);
      }
    }
    std::ranges::sort(together);
    return together;
  }

  void gather(const Value& params) {
    Instruction& gather = draft_.emit_comm(Op::kGatherParams, params.unit, GroupAxis::kShard);
    gather.reads = {params_value(params.unit, params.index, Part::kShard)};
    gather.writes = {gathered_value(params.unit, draft_.gathers[params.unit]++)};
    open_[params.unit] = true;
  }

  bool frees(Op op, int32_t unit) const {
    if (reshard_ == Reshard::kNever || op == Op::kRecompute) return false;
    const bool training = draft_.program.name == "train";
    const bool serves_both = reshard_ == Reshard::kDefault && training && is_head(unit);
    return op == Op::kBackwardInput || !serves_both;
  }

  // Its backward follows its forward.
  bool is_head(int32_t unit) const {
    return std::ranges::any_of(draft_.facts.heads, [&](const Head& head) { return head.unit == unit; });
  }

  void free(int32_t unit) {
    for (const Value& weight : draft_.facts.units[unit].weights) open_[weight.unit] = false;
  }

  const Reshard reshard_;
  Draft& draft_;
  std::vector<bool> open_;  // by owner: the last gather may serve the next use
};

}  // namespace

void gather_parameters(Reshard reshard, Draft* draft) { GatherPass(reshard, draft).run(); }

}  // namespace furrow::plan
