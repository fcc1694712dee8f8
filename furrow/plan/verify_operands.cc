// Rule: each operation reads and writes what program.h says, no more and no less.
#include "furrow/plan/verify_operands.h"

#include <fmt/format.h>

#include <algorithm>

namespace furrow::plan::rules {

int32_t OperandRule::phase() const {
  int32_t phase = -1;
  for (const Value& value : instruction_.writes) {
    if (value.kind == ValueKind::kSums) phase = value.index / 2;
    if (value.kind == ValueKind::kScale) phase = value.index;
    if (value.kind == ValueKind::kLossScale) phase = value.index / 2;
  }
  if (phase < 0 || phase >= facts_.phases()) fail(fmt::format("the program has no phase {}", phase));
  return phase;
}

Operands OperandRule::with_loss_scale(int32_t phase, Operands operands) const {
  if (facts_.model.scales_loss) operands.reads.push_back(loss_scale_value(0, phase));
  return operands;
}

void OperandRule::check_owns() const {
  if (!unit().owns) fail("the unit has no parameters of its own");
}

void OperandRule::check_steps() const {
  check_owns();
  if (!unit().steps) fail("every parameter of the unit is frozen");
}

std::string OperandRule::names(const Values& values) {
  std::string text;
  for (const Value& value : values) {
    if (!text.empty()) text += ' ';
    text += to_string(value);
  }
  return text.empty() ? "nothing" : text;
}

namespace {

Operands expected(const Facts& facts, size_t index) {
  switch (facts.program.instructions[index].op) {
    case Op::kLoad:
    case Op::kForward:
    case Op::kRecompute:
    case Op::kLoss:
    case Op::kEvaluate:
    case Op::kBackwardInput:
    case Op::kBackwardWeight:
    case Op::kGatherStats:
    case Op::kFoldStats:
      return turn_operands(facts, index);
    case Op::kAddTied:
    case Op::kRound:
    case Op::kWiden:
    case Op::kReduceGrads:
    case Op::kGatherGrads:
    case Op::kMeasure:
    case Op::kReduceScalar:
    case Op::kClip:
    case Op::kUpdateScale:
      return gradient_operands(facts, index);
    case Op::kSend:
    case Op::kRecv:
      return transfer_operands(facts, index);
    default:
      return step_operands(facts, index);
  }
}

class OperandLists : OperandRule {
 public:
  using OperandRule::OperandRule;

  void check() const {
    check_kinds("reads", instruction_.reads, op_info(instruction_.op).reads);
    check_kinds("writes", instruction_.writes, op_info(instruction_.op).writes);
    if (instruction_.op == Op::kAdd) return;  // verify_gradients.cc
    const Operands operands = expected(facts_, index_);
    check_list("read", instruction_.reads, operands.reads, {});
    check_list("write", instruction_.writes, operands.writes, operands.may_write);
  }

 private:
  void check_kinds(std::string_view what, const Values& values, KindSet allowed) const {
    for (const Value& value : values) {
      if ((allowed & kind_bit(value.kind)) != 0) continue;
      fail(fmt::format("{} {}: {} may not", what, to_string(value), op_info(instruction_.op).name));
    }
  }

  void check_list(std::string_view verb, const Values& actual, const Values& required,
                  const Values& optional) const {
    auto holds = [](const Values& values, const Value& value) {
      return std::find(values.begin(), values.end(), value) != values.end();
    };
    for (const Value& value : required) {
      if (!holds(actual, value)) fail(fmt::format("it must {} {}", verb, to_string(value)));
    }
    for (size_t i = 0; i < actual.size(); ++i) {
      if (!holds(required, actual[i]) && !holds(optional, actual[i])) {
        fail(fmt::format("it must not {} {}", verb, to_string(actual[i])));
      }
      if (std::find(actual.begin(), actual.begin() + i, actual[i]) != actual.begin() + i) {
        fail(fmt::format("{}s {} twice", verb, to_string(actual[i])));
      }
    }
  }
};

}  // namespace

void check_operands(const Facts& facts) {
  for (size_t i = 0; i < facts.program.instructions.size(); ++i) {
    check_place(facts, i);
    OperandLists(facts, i).check();
  }
}

}  // namespace furrow::plan::rules
