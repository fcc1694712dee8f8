// Operands of parameters and optimizer state: gathered, stepped, copied, kept.
#include "furrow/plan/verify_operands.h"

namespace furrow::plan::rules {
namespace {

class StepOperands : OperandRule {
 public:
  using OperandRule::OperandRule;

  Operands expect() const {
    switch (instruction_.op) {
      case Op::kGatherParams:
        return gather_params();
      case Op::kGatherUpdated:
        return gather_updated();
      case Op::kStep:
        return step();
      case Op::kCopyDown:
        return copy_down();
      case Op::kCopyUp:
        return copy_up();
      case Op::kSwapAverage:
        return swap_average();
      default:
        return snapshot();
    }
  }

 private:
  // In float32, whatever gradients are added in.
  Value stepped_gradient() const {
    const Part part = place().step_part();
    return rounds() ? wide_value(u_, part) : facts_.final_of(u_, part);
  }

  Operands gather_params() const {
    check_owns();
    if (place().zero_stage != 3) fail("parameters are whole on every rank: only ZeRO-3 gathers them");
    const bool right = instruction_.writes.size() == 1 && instruction_.writes[0].unit == u_;
    const Value gathered = right ? instruction_.writes[0] : gathered_value(u_, 0);
    // Which version who reads it needs is for verify_gathers.cc.
    const bool stepped = !instruction_.reads.empty() && instruction_.reads[0].index == 1;
    return {{params_value(u_, stepped ? 1 : 0, Part::kShard)}, {gathered}, {}};
  }

  Operands gather_updated() const {
    check_steps();
    if (place().zero_stage != 1 && place().zero_stage != 2)
      fail("only ZeRO-1 and 2 gather updated parameters");
    return {{params_value(u_, 1, Part::kShard)}, {params_value(u_, 1)}, {}};
  }

  bool offloads() const { return facts_.model.flat.units[u_].offload; }

  void check_offload() const {
    check_steps();
    if (!offloads()) fail("the optimizer of the unit is not on the host");
  }

  Operands copy_down() const {
    check_offload();
    return {{stepped_gradient()}, {hosted_value(u_, 0, place().step_part())}, {}};
  }

  Operands copy_up() const {
    check_offload();
    return {{params_value(u_, 0, place().params_part()), hosted_value(u_, 1, place().step_part())},
            {params_value(u_, 1, place().step_part())},
            {}};
  }

  Operands step() const {
    check_steps();
    const Part part = place().step_part();
    if (offloads()) {
      return {{state_value(u_, 0, part), hosted_value(u_, 0, part), scale_value(unit().backward_phase)},
              {state_value(u_, 1, part), hosted_value(u_, 1, part)},
              {}};
    }
    Operands operands{
        {params_value(u_, 0, place().params_part()), stepped_gradient(), scale_value(unit().backward_phase)},
        {params_value(u_, 1, part)},
        {}};
    if (facts_.with_state) {
      operands.reads.push_back(state_value(u_, 0, part));
      operands.writes.push_back(state_value(u_, 1, part));
    }
    return operands;
  }

  Operands swap_average() const {
    const bool statistics = facts_.model.flat.units[u_].averages_statistics;
    if (!statistics) check_steps();
    const Part part = place().step_part();
    Operands operands;
    if (unit().steps) {
      operands.reads = {params_value(u_, 0, place().params_part()), state_value(u_, 0, part)};
      operands.writes = {params_value(u_, 1, part), state_value(u_, 1, part)};
    }
    if (statistics) {
      operands.reads.push_back(stats_value(u_, 0));
      operands.writes.push_back(stats_value(u_, 1));
    }
    return operands;
  }

  Operands snapshot() const {
    check_owns();
    Operands operands{
        {params_value(u_, 0, place().params_part())}, {snapshot_value(u_, place().own_part())}, {}};
    if (facts_.with_state && unit().steps) operands.reads.push_back(state_value(u_, 0, place().step_part()));
    if (unit().has_statistics && place().writes_statistics()) operands.reads.push_back(stats_value(u_, 0));
    return operands;
  }
};

}  // namespace

Operands step_operands(const Facts& facts, size_t index) { return StepOperands(facts, index).expect(); }

}  // namespace furrow::plan::rules
