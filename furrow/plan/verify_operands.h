// What operations read and write, as verify_operands*.cc say for each.  Internal to plan.
#pragma once

#include <string>
#include <vector>

#include "furrow/plan/verify_rules.h"

namespace furrow::plan::rules {

using Values = std::vector<Value>;

struct Operands {
  Values reads;
  Values writes;
  Values may_write;  // besides
};

// What the operands of an instruction are made of.
class OperandRule : protected InstructionRule {
 public:
  using InstructionRule::InstructionRule;

 protected:
  const UnitFacts& unit() const { return facts_.model.units[u_]; }
  bool rounds() const { return facts_.model.flat.rounds_gradients(); }
  // Which one, by what is written.
  int32_t phase() const;
  // What makes the gradients of a phase and what judges them read one loss scale.
  Operands with_loss_scale(int32_t phase, Operands operands) const;
  void check_owns() const;
  void check_steps() const;
  static std::string names(const Values& values);  // "act(u0,m1) batch(m1)"
};

// REQUIRES: an operation of the file's own.
Operands turn_operands(const Facts& facts, size_t index);      // verify_operands_turn.cc
Operands gradient_operands(const Facts& facts, size_t index);  // verify_operands_gradients.cc
Operands step_operands(const Facts& facts, size_t index);      // verify_operands_step.cc
Operands transfer_operands(const Facts& facts, size_t index);  // verify_operands_transfer.cc

}  // namespace furrow::plan::rules
