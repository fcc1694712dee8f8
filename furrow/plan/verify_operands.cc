// Rule: each operation reads and writes what program.h says, no more and no less.
#include <fmt/format.h>

#include <algorithm>

#include "furrow/plan/exchange.h"
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
    check_kinds("reads", instruction_.reads, op_info(instruction_.op).reads);
    check_kinds("writes", instruction_.writes, op_info(instruction_.op).writes);
    if (instruction_.op == Op::kAdd) return;  // verify_gradients.cc
    const Operands expected = expect();
    check_list("read", instruction_.reads, expected.reads, {});
    check_list("write", instruction_.writes, expected.writes, expected.may_write);
  }

 private:
  [[noreturn]] void fail(const std::string& message) const { facts_.fail(index_, message); }

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
  const Placement& place() const { return facts_.program.placement; }

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

  Operands expect() const {
    switch (instruction_.op) {
      case Op::kLoad:
        return {{}, {batch_value(m_)}, {}};
      case Op::kForward:
        return forward();
      case Op::kRecompute:
        return {input_and_weights(), {saved_value(u_, m_)}, {}};
      case Op::kLoss:
        return with_loss_scale(loss());
      case Op::kEvaluate:
        return loss();
      case Op::kBackwardInput:
        return backward_input();
      case Op::kBackwardWeight:
        return backward_weight();
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
      case Op::kGatherParams:
        return gather_params();
      case Op::kMeasure:
        return measure();
      case Op::kReduceScalar:
        return {{sums_value(0, phase())}, {sums_value(1, phase())}, {}};
      case Op::kClip:
        return with_loss_scale({{facts_.last_sums(phase())}, {scale_value(phase())}, {}});
      case Op::kUpdateScale:
        if (!facts_.model.scales_loss) fail("nothing is in float16");
        return {{scale_value(), loss_scale_value(0)}, {loss_scale_value(1)}, {}};
      case Op::kGatherStats:
        return gather_stats();
      case Op::kFoldStats:
        return fold_stats();
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
      case Op::kSend:
      case Op::kRecv:
        return transfer();
      default:
        return snapshot();
    }
  }

  // What makes gradients and what judges them read one loss scale.
  Operands with_loss_scale(Operands operands) const {
    if (facts_.model.scales_loss) operands.reads.push_back(loss_scale_value(0));
    return operands;
  }

  // Which one, by what is written.
  int32_t phase() const {
    int32_t phase = -1;
    for (const Value& value : instruction_.writes) {
      if (value.kind == ValueKind::kSums) phase = value.index / 2;
      if (value.kind == ValueKind::kScale) phase = value.index;
    }
    if (phase < 0 || phase >= facts_.phases()) fail(fmt::format("the program has no phase {}", phase));
    return phase;
  }

  Operands loss() const {
    const bool trains = instruction_.op == Op::kLoss;
    int32_t h = -1;
    for (const Value& value : instruction_.writes) h = value.kind == ValueKind::kLoss ? value.begin : h;
    if (h < 0 || h >= static_cast<int32_t>(facts_.model.heads.size()))
      fail(fmt::format("it must write {}", to_string(loss_value(m_))));
    const Head& head = facts_.model.heads[h];
    if (!facts_.holds(head.unit)) fail("the last unit is on another rank of the pipeline");
    Operands operands{{act_value(head.unit, m_), batch_value(m_)}, {loss_value(m_, h)}, {}};
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

  // In float32, whatever gradients are added in.
  Value stepped_gradient() const {
    const Part part = place().step_part();
    return rounds() ? wide_value(u_, part) : facts_.final_of(u_, part);
  }

  bool rounds() const { return facts_.model.flat.rounds_gradients(); }

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

  static std::string names(const Values& values) {
    std::string text;
    for (const Value& value : values) {
      if (!text.empty()) text += ' ';
      text += to_string(value);
    }
    return text.empty() ? "nothing" : text;
  }

  Operands gather_grads() const {
    check_steps();
    return {{facts_.final_of(u_, Part::kPiece)}, {facts_.final_of(u_, place().step_part())}, {}};
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

  void check_owns() const {
    if (!unit().owns) fail("the unit has no parameters of its own");
  }

  void check_steps() const {
    check_owns();
    if (!unit().steps) fail("every parameter of the unit is frozen");
  }

  bool offloads() const { return facts_.model.flat.units[u_].offload; }

  void check_offload() const {
    check_steps();
    if (!offloads()) fail("the optimizer of the unit is not on the host");
  }

  Operands copy_down() const {
    check_offload();
    return {{stepped_gradient()}, {hosted_value(u_, place().step_part())}, {}};
  }

  Operands copy_up() const {
    check_offload();
    return {{params_value(u_, 0, place().params_part()), state_value(u_, 1, place().step_part())},
            {params_value(u_, 1, place().step_part())},
            {}};
  }

  Operands step() const {
    check_steps();
    const Part part = place().step_part();
    if (offloads()) {
      return {{state_value(u_, 0, part), hosted_value(u_, part), scale_value(unit().backward_phase)},
              {state_value(u_, 1, part)},
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
    check_steps();
    const Part part = place().step_part();
    return {{params_value(u_, 0, place().params_part()), state_value(u_, 0, part)},
            {params_value(u_, 1, part), state_value(u_, 1, part)},
            {}};
  }

  Operands snapshot() const {
    check_owns();
    Operands operands{
        {params_value(u_, 0, place().params_part())}, {snapshot_value(u_, place().own_part())}, {}};
    if (facts_.with_state && unit().steps) operands.reads.push_back(state_value(u_, 0, place().step_part()));
    if (unit().has_statistics && place().writes_statistics()) operands.reads.push_back(stats_value(u_, 0));
    return operands;
  }

  // One value that the other end is due to have, or to give.
  Operands transfer() const {
    const bool sends = instruction_.op == Op::kSend;
    const Values& values = sends ? instruction_.reads : instruction_.writes;
    if (values.size() != 1) fail("it carries one value");
    const Value& value = values[0];
    if (value.unit != u_) fail(fmt::format("{} belongs to another unit", to_string(value)));
    if (m_ != transfer_microbatch(value))
      fail(fmt::format("{} belongs to another microbatch", to_string(value)));
    if (m_ >= 0 && !takes(place(), facts_.microbatches(), m_))
      fail(fmt::format("microbatch {} belongs to another rank", m_));
    const int self = place().pipeline_rank(), peer = instruction_.peer;
    if (peer < 0 || peer >= place().pipeline_ranks() || peer == self)
      fail(fmt::format("there is no other rank {} in the pipeline", peer));
    if (!crosses(value, sends ? self : peer, sends ? peer : self)) {
      fail(fmt::format("{} does not cross from rank {} of the pipeline to rank {}", to_string(value),
                       sends ? self : peer, sends ? peer : self));
    }
    Operands operands;
    (sends ? operands.reads : operands.writes) = values;
    if (!sends && value.kind == ValueKind::kParams)
      operands.reads = {params_value(u_, 0, place().params_part())};
    return operands;
  }

  // Whether a step has `value` travel from one pp coordinate to another.
  bool crosses(const Value& value, int from, int to) const {
    const Placement& place = this->place();
    const int own = place.pipeline_rank_of(u_);
    const bool last = u_ == facts_.last_unit();
    switch (value.kind) {
      case ValueKind::kAct:
        return !last && own == from && place.pipeline_rank_of(u_ + 1) == to;
      case ValueKind::kGrad:
        return !last && u_ >= facts_.model.first_trained && own == to &&
               place.pipeline_rank_of(u_ + 1) == from;
      case ValueKind::kGradient:
        for (const TiedUse& tied : unit().uses_by_others) {
          const Value whole = gradient_value(u_, tied.use, 0, facts_.microbatches(), place.own_part());
          if (value == whole) return own == to && place.pipeline_rank_of(tied.user_unit) == from;
        }
        return false;
      default: {
        const std::vector<int> users = foreign_users(facts_.model, place, u_);
        return value == params_value(u_, 1, place.params_part()) && own == from &&
               std::find(users.begin(), users.end(), to) != users.end();
      }
    }
  }

  const Facts& facts_;
  const size_t index_;
  const Instruction& instruction_;
  const int32_t u_;
  const int32_t m_;
};

}  // namespace

void check_operands(const Facts& facts) {
  for (size_t i = 0; i < facts.program.instructions.size(); ++i) {
    check_place(facts, i);
    OperandRule(facts, i).check();
  }
}

}  // namespace furrow::plan::rules
