// ZeRO-3: a unit's parameters are gathered before they are used, and freed by the reshard policy.  Freeing
// needs no instruction: a gathered value dies after its last use, so the policy is how many uses share a
// gather.
#include <algorithm>
#include <utility>

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
    for (DraftInstruction& each : before) {
      const Instruction& instruction = each.instruction;
      const bool uses = instruction.op == Op::kForward || instruction.op == Op::kRecompute ||
                        instruction.op == Op::kBackwardInput;
      if (uses) use(&each.instruction);
      const std::pair<Op, int32_t> what{instruction.op, instruction.unit};
      draft_.list.push_back(std::move(each));
      if (uses && frees(what.first, what.second)) free(what.second);
    }
  }

 private:
  void use(Instruction* instruction) {
    for (Value& value : instruction->reads) {
      if (value.kind != ValueKind::kParams) continue;
      const int32_t owner = value.unit;
      if (!open_[owner]) gather(value);
      value = gathered_value(owner, draft_.gathers[owner] - 1);
    }
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
