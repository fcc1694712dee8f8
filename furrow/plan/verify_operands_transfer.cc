// Operands of transfers: what crosses from one stage of a pipeline to another.
#include <fmt/format.h>

#include <algorithm>

#include "furrow/plan/verify_operands.h"

namespace furrow::plan::rules {
namespace {

class TransferOperands : OperandRule {
 public:
  using OperandRule::OperandRule;

  // One value that the other end is due to have, or to give.
  Operands expect() const {
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

 private:
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
};

}  // namespace

Operands transfer_operands(const Facts& facts, size_t index) {
  return TransferOperands(facts, index).expect();
}

}  // namespace furrow::plan::rules
