// Operands of gradients: exchanged, rounded, added over uses, measured and judged.
#include <fmt/format.h>

#include "furrow/plan/exchange.h"
#include "furrow/plan/verify_operands.h"

namespace furrow::plan::rules {
namespace {

class GradientOperands : OperandRule {
 public:
  using OperandRule::OperandRule;

  Operands expect() const {
    switch (instruction_.op) {
      case Op::kAddTied:
        return add_tied();
      case Op::kRound:
        return round();
      case Op::kWiden:
        return widen();
      case Op::kReduceGrads:
        return reduce_grads();
      case Op::kGatherGrads:
        return gather_grads();
      case Op::kMeasure:
        return measure();
      case Op::kReduceScalar:
        return {{sums_value(0, phase())}, {sums_value(1, phase())}, {}};
      case Op::kClip:
        return with_loss_scale(phase(), {{facts_.last_sums(phase())}, {scale_value(phase())}, {}});
      default:
        return update_scale();
    }
  }

 private:
  Operands update_scale() const {
    if (!facts_.model.scales_loss) fail("nothing is in float16");
    const int32_t p = phase();
    return {{scale_value(p), loss_scale_value(0, p)}, {loss_scale_value(1, p)}, {}};
  }

  void check_rounded() const {
    if (!rounds()) fail("gradients are float32");
  }

  Operands widen() const {
    check_rounded();
    check_steps();
    return {{facts_.final_of(u_, place().step_part())}, {wide_value(u_, place().step_part())}, {}};
  }

  Operands round() const {
    check_rounded();
    const int32_t use = written_use();
    return {{leaf_value(u_, use, m_)}, {gradient_value(u_, use, m_, m_ + 1)}, {}};
  }

  // Of the unit's parameters, by what is written.
  int32_t written_use() const {
    const int32_t use = instruction_.writes.empty() ? 0 : instruction_.writes[0].index;
    if (use > static_cast<int32_t>(unit().uses_by_others.size()))
      fail(fmt::format("there is no use {}", use));
    return use;
  }

  // The values of the nodes of one use.
  Values nodes(int32_t use, const std::vector<Range>& ranges, Part part) const {
    Values values;
    for (const Range& range : ranges) values.push_back(gradient_value(u_, use, range.begin, range.end, part));
    return values;
  }

  Operands reduce_grads() const {
    check_steps();
    if (instruction_.writes.empty()) fail("it writes nothing");
    const int32_t use = written_use(), k = facts_.microbatches();
    Range all{instruction_.writes.front().begin, instruction_.writes.back().end};
    if (instruction_.axis == GroupAxis::kReplicate) all = {0, k};
    if (instruction_.axis == GroupAxis::kShard) {
      if (place().reduces_each_microbatch()) {
        check_round(all);
      } else {
        all = replica_block(place(), k);
      }
    }
    const bool pieces = instruction_.axis == GroupAxis::kReplicate;
    Operands operands{{}, nodes(use, facts_.tree.cover(all), pieces ? Part::kPiece : Part::kShard), {}};
    if (instruction_.writes != operands.writes) fail(fmt::format("it must write {}", names(operands.writes)));
    const Exchange exchange = exchange_of(facts_.program, instruction_);
    operands.reads = nodes(use, exchange.nodes[exchange.self], exchange.given_part);
    if (instruction_.reads != operands.reads) fail(fmt::format("it must read {}", names(operands.reads)));
    return operands;
  }

  void check_round(Range all) const {
    const int32_t k = facts_.microbatches();
    const int32_t from = all.begin - replica_block(place(), k).begin;
    const int32_t round = from / place().shards();
    if (from >= 0 && round < rounds_of(place(), k) && round_of(place(), k, round) == all) return;
    fail(
        fmt::format("microbatches {} to {} are no round of this rank's shard group", all.begin, all.end - 1));
  }

  Operands gather_grads() const {
    check_steps();
    return {{facts_.final_of(u_, Part::kPiece)}, {facts_.final_of(u_, place().step_part())}, {}};
  }

  Operands add_tied() const {
    if (unit().uses_by_others.empty()) fail("no other unit uses its parameters");
    const Part part = place().own_part();
    Operands operands{{gradient_value(u_, 0, 0, facts_.microbatches(), part)}, {total_value(u_, part)}, {}};
    for (const TiedUse& tied : unit().uses_by_others) {
      operands.reads.push_back(gradient_value(u_, tied.use, 0, facts_.microbatches(), part));
    }
    // Sums of floats depend on their order, so here the order counts too.
    if (instruction_.reads != operands.reads) {
      fail("it must read the whole gradient of every use, in the order of uses from 0");
    }
    return operands;
  }

  Operands measure() const {
    const int32_t p = phase();
    Operands operands{{}, {sums_value(0, p)}, {}};
    for (int32_t u = 0; u <= facts_.last_unit() && facts_.program.name == "train"; ++u) {
      if (facts_.steps(u) && facts_.model.units[u].backward_phase == p)
        operands.reads.push_back(facts_.final_of(u, place().step_part()));
    }
    for (const int32_t h : facts_.model.heads_in(p)) {
      if (!facts_.holds(facts_.model.heads[h].unit)) continue;
      for (const int32_t m : microbatches_of(place(), facts_.microbatches()))
        operands.reads.push_back(loss_value(m, h));
    }
    return operands;
  }
};

}  // namespace

Operands gradient_operands(const Facts& facts, size_t index) {
  return GradientOperands(facts, index).expect();
}

}  // namespace furrow::plan::rules
