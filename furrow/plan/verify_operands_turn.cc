// Operands of a turn: what is loaded, computed and judged of a microbatch, and the statistics it leaves.
#include <fmt/format.h>

#include "furrow/plan/verify_operands.h"

namespace furrow::plan::rules {
namespace {

class TurnOperands : OperandRule {
 public:
  using OperandRule::OperandRule;

  Operands expect() const {
    switch (instruction_.op) {
      case Op::kLoad:
        return {{}, {batch_value(m_)}, {}};
      case Op::kForward:
        return forward();
      case Op::kRecompute:
        return {input_and_weights(), {saved_value(u_, m_)}, {}};
      case Op::kLoss:
        return with_loss_scale(head().phase, loss());
      case Op::kEvaluate:
        return loss();
      case Op::kBackwardInput:
        return backward_input();
      case Op::kBackwardWeight:
        return backward_weight();
      case Op::kGatherStats:
        return gather_stats();
      default:
        return fold_stats();
    }
  }

 private:
  // Under ZeRO-3 some gather of the same parameters stands for them; verify_gathers.cc says which may.
  Value weight(const Value& params) const {
    if (place().zero_stage != 3) return params;
    for (const Value& value : instruction_.reads) {
      if (value.kind == ValueKind::kGathered && value.unit == params.unit) return value;
    }
    return gathered_value(params.unit, 0);
  }

  Values input_and_weights(Values values = {}) const {
    values.push_back(batch_value(m_));
    if (unit().source >= 0) values.push_back(act_value(unit().source, m_));
    for (const Value& params : unit().weights) values.push_back(weight(params));
    return values;
  }

  // Which one, by the loss that is written.
  int32_t head_index() const {
    int32_t h = -1;
    for (const Value& value : instruction_.writes) h = value.kind == ValueKind::kLoss ? value.begin : h;
    if (h < 0 || h >= static_cast<int32_t>(facts_.model.heads.size()))
      fail(fmt::format("it must write {}", to_string(loss_value(m_))));
    return h;
  }
  const Head& head() const { return facts_.model.heads[head_index()]; }

  Operands loss() const {
    const bool trains = instruction_.op == Op::kLoss;
    const Head& head = this->head();
    if (!facts_.holds(head.unit)) fail("the last unit is on another rank of the pipeline");
    Operands operands{{act_value(head.unit, m_), batch_value(m_)}, {loss_value(m_, head_index())}, {}};
    if (trains) operands.writes.push_back(grad_value(head.unit, m_));
    if (trains && head.teacher >= 0) operands.reads.push_back(act_value(head.teacher, m_));
    return operands;
  }

  Operands forward() const {
    Operands operands{input_and_weights(), {act_value(u_, m_)}, {saved_value(u_, m_)}};
    if (!unit().has_statistics) return operands;
    if (facts_.program.name == "train" && unit().folds) {
      operands.writes.push_back(bn_stats_value(u_, m_));
    } else {
      operands.reads.push_back(stats_value(u_, 0));
    }
    return operands;
  }

  // The order counts: it is that in which they travel.
  Operands gather_stats() const {
    Operands operands;
    for (int32_t m = 0; m < facts_.microbatches(); ++m) {
      Values& side = takes(place(), facts_.microbatches(), m) ? operands.reads : operands.writes;
      for (int32_t u = 0; u <= facts_.last_unit(); ++u) {
        if (facts_.model.units[u].folds && facts_.holds(u)) side.push_back(bn_stats_value(u, m));
      }
    }
    if (instruction_.reads != operands.reads) fail(fmt::format("it must read {}", names(operands.reads)));
    if (instruction_.writes != operands.writes) fail(fmt::format("it must write {}", names(operands.writes)));
    return operands;
  }

  // An average of what comes later counts more, so here too the order counts.
  Operands fold_stats() const {
    if (!unit().folds) fail("the unit has no statistics");
    Operands operands{{stats_value(u_, 0)}, {stats_value(u_, 1)}, {}};
    for (int32_t m = 0; m < facts_.microbatches(); ++m) operands.reads.push_back(bn_stats_value(u_, m));
    operands.reads.push_back(scale_value(unit().forward_phase));
    if (instruction_.reads != operands.reads)
      fail("it must read the statistics, what every microbatch says in microbatch order, and the verdict");
    return operands;
  }

  Operands backward_input() const {
    Operands operands{input_and_weights({grad_value(u_, m_), saved_value(u_, m_)}), {}, {}};
    if (unit().trains()) operands.writes.push_back(deferred_value(u_, m_));
    if (unit().passes) operands.writes.push_back(grad_value(unit().source, m_));
    return operands;
  }

  Operands backward_weight() const {
    if (!unit().trains()) fail("the unit has no parameters that are trained");
    Operands operands{{deferred_value(u_, m_), input_value(unit(), m_)}, {}, {}};
    const auto formed = [&](int32_t owner, int32_t use) {
      return rounds() ? leaf_value(owner, use, m_) : gradient_value(owner, use, m_, m_ + 1);
    };
    if (unit().steps) operands.writes.push_back(formed(u_, 0));
    for (const TiedUse& tied : unit().ties) operands.writes.push_back(formed(tied.owner_unit, tied.use));
    return operands;
  }
};

}  // namespace

Operands turn_operands(const Facts& facts, size_t index) { return TurnOperands(facts, index).expect(); }

}  // namespace furrow::plan::rules
