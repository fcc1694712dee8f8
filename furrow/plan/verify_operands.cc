// Rule: each operation has the unit and microbatch that its row in ops.cc asks for, and reads and writes what
// program.h says, no more and no less.
#include <fmt/format.h>

#include <algorithm>

#include "furrow/plan/verify_rules.h"

namespace furrow::plan::rules {
namespace {

using Values = std::vector<Value>;

struct Operands {
  Values reads;
  Values writes;
  Values may_write;  // besides
};

class OperandRule {
 public:
  OperandRule(const Facts& facts, size_t index)
      : facts_(facts),
        index_(index),
        instruction_(facts.program.instructions[index]),
        u_(instruction_.unit),
        m_(instruction_.microbatch) {}

  void check() const {
    check_place();
    check_kinds("reads", instruction_.reads, op_info(instruction_.op).reads);
    check_kinds("writes", instruction_.writes, op_info(instruction_.op).writes);
    if (instruction_.op == Op::kAdd) return;  // verify_gradients.cc
    const Operands expected = expect();
    check_list("read", instruction_.reads, expected.reads, {});
    check_list("write", instruction_.writes, expected.writes, expected.may_write);
  }

 private:
  [[noreturn]] void fail(const std::string& message) const { facts_.fail(index_, message); }

  void check_place() const {
    const OpInfo& info = op_info(instruction_.op);
    if (info.has_unit ? (u_ < 0 || u_ > facts_.last_unit()) : u_ != -1) {
      fail(info.has_unit ? fmt::format("the model has no unit {}", u_) : "this operation has no unit");
    }
    if (info.has_microbatch ? (m_ < 0 || m_ >= facts_.microbatches()) : m_ != -1) {
      fail(info.has_microbatch ? fmt::format("the program has no microbatch {}", m_)
                               : "this operation has no microbatch");
    }
    const bool step = instruction_.op == Op::kStep;
    if ((instruction_.predicate == Predicate::kFinite) != step) {
      fail(step ? "a step must run 'if finite'" : "only a step runs 'if finite'");
    }
  }

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

  const UnitFacts& unit() const { return facts_.model.units[u_]; }

  Values input_and_weights(Values values = {}) const {
    values.push_back(batch_value(m_));
    if (u_ > 0) values.push_back(act_value(u_ - 1, m_));
    values.insert(values.end(), unit().weights.begin(), unit().weights.end());
    return values;
  }

  Operands expect() const {
    const int32_t last = facts_.last_unit();
    switch (instruction_.op) {
      case Op::kLoad:
        return {{}, {batch_value(m_)}, {}};
      case Op::kForward:
        return {input_and_weights(), {act_value(u_, m_)}, {saved_value(u_, m_)}};
      case Op::kRecompute:
        return {input_and_weights(), {saved_value(u_, m_)}, {}};
      case Op::kLoss:
        return {{act_value(last, m_), batch_value(m_)}, {grad_value(last, m_), loss_value(m_)}, {}};
      case Op::kEvaluate:
        return {{act_value(last, m_), batch_value(m_)}, {loss_value(m_)}, {}};
      case Op::kBackwardInput:
        return backward_input();
      case Op::kBackwardWeight:
        return backward_weight();
      case Op::kAddTied:
        return add_tied();
      case Op::kMeasure:
        return measure();
      case Op::kClip:
        return {{sums_value(0)}, {scale_value()}, {}};
      case Op::kStep:
        return step();
      default:
        return snapshot();
    }
  }

  Operands backward_input() const {
    Operands operands{input_and_weights({grad_value(u_, m_), saved_value(u_, m_)}), {}, {}};
    if (unit().has_parameters()) operands.writes.push_back(deferred_value(u_, m_));
    if (u_ > facts_.model.first_trained) operands.writes.push_back(grad_value(u_ - 1, m_));
    return operands;
  }

  Operands backward_weight() const {
    if (!unit().has_parameters()) fail("the unit has no parameters");
    Operands operands{{deferred_value(u_, m_), input_value(u_, m_)}, {}, {}};
    if (unit().owns) operands.writes.push_back(gradient_value(u_, 0, m_, m_ + 1));
    for (const TiedUse& tied : unit().ties) {
      operands.writes.push_back(gradient_value(tied.owner_unit, tied.use, m_, m_ + 1));
    }
    return operands;
  }

  Operands add_tied() const {
    if (unit().uses_by_others.empty()) fail("no other unit uses its parameters");
    Operands operands{{gradient_value(u_, 0, 0, facts_.microbatches())}, {total_value(u_)}, {}};
    for (const TiedUse& tied : unit().uses_by_others) {
      operands.reads.push_back(gradient_value(u_, tied.use, 0, facts_.microbatches()));
    }
    // Sums of floats depend on their order, so here the order counts too.
    if (instruction_.reads != operands.reads) {
      fail("it must read the whole gradient of every use, in the order of uses from 0");
    }
    return operands;
  }

  Operands measure() const {
    Operands operands{{}, {sums_value(0)}, {}};
    for (int32_t u = 0; u <= facts_.last_unit() && facts_.program.name == "train"; ++u) {
      const UnitFacts& unit = facts_.model.units[u];
      if (unit.owns) operands.reads.push_back(final_gradient(unit, u, facts_.microbatches()));
    }
    for (int32_t m = 0; m < facts_.microbatches(); ++m) operands.reads.push_back(loss_value(m));
    return operands;
  }

  void check_owns() const {
    if (!unit().owns) fail("the unit has no parameters of its own");
  }

  Operands step() const {
    check_owns();
    Operands operands{{params_value(u_, 0), final_gradient(unit(), u_, facts_.microbatches()), scale_value()},
                      {params_value(u_, 1)},
                      {}};
    if (facts_.with_state) {
      operands.reads.push_back(state_value(u_, 0));
      operands.writes.push_back(state_value(u_, 1));
    }
    return operands;
  }

  Operands snapshot() const {
    check_owns();
    Operands operands{{params_value(u_, 0)}, {snapshot_value(u_)}, {}};
    if (facts_.with_state) operands.reads.push_back(state_value(u_, 0));
    return operands;
  }

  const Facts& facts_;
  const size_t index_;
  const Instruction& instruction_;
  const int32_t u_;
  const int32_t m_;
};

}  // namespace

void check_operands(const Facts& facts) {
  for (size_t i = 0; i < facts.program.instructions.size(); ++i) OperandRule(facts, i).check();
}

}  // namespace furrow::plan::rules
