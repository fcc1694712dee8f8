// Rule: each operation has the unit, microbatch, predicate, stream and axis that its row in ops.cc asks for,
// and they are this rank's.
#include <fmt/format.h>

#include <algorithm>

#include "furrow/plan/verify_rules.h"

namespace furrow::plan::rules {
namespace {

class PlaceRule : InstructionRule {
 public:
  using InstructionRule::InstructionRule;

  void check() const {
    const OpInfo& info = op_info(instruction_.op);
    if (info.has_unit ? (u_ < 0 || u_ > facts_.last_unit()) : u_ != -1) {
      fail(info.has_unit ? fmt::format("the model has no unit {}", u_) : "this operation has no unit");
    }
    if (!info.has_peer) check_microbatch(info);
    const bool commits = instruction_.op == Op::kStep || instruction_.op == Op::kGatherUpdated ||
                         instruction_.op == Op::kFoldStats || is_copy(instruction_.op);
    const bool transfers_params = info.has_peer && carries(ValueKind::kParams);
    if ((instruction_.predicate == Predicate::kFinite) != (commits || transfers_params)) {
      fail(commits || transfers_params ? fmt::format("a {} must run 'if finite'", info.name)
                                       : "only step, copies beside it, gather_updated, fold_stats and "
                                         "transfers of parameters run 'if finite'");
    }
    check_axis(info);
    check_unit(info);
  }

 private:
  // The unit of the instruction is one of the rank's, or, of communication, one whose parameters it keeps.
  void check_unit(const OpInfo& info) const {
    if (!info.has_unit || info.has_peer || facts_.holds(u_)) return;
    const bool foreign = instruction_.op == Op::kGatherParams || instruction_.op == Op::kReduceGrads ||
                         instruction_.op == Op::kAdd || instruction_.op == Op::kRound;
    if (foreign && keeps_params(facts_.model, place(), u_)) return;
    fail(fmt::format("unit {} belongs to rank {} of the pipeline", u_, place().pipeline_rank_of(u_)));
  }

  void check_microbatch(const OpInfo& info) const {
    if (info.has_microbatch ? (m_ < 0 || m_ >= facts_.microbatches()) : m_ != -1) {
      fail(info.has_microbatch ? fmt::format("the program has no microbatch {}", m_)
                               : "this operation has no microbatch");
    }
    if (info.has_microbatch && !takes(place(), facts_.microbatches(), m_)) {
      fail(fmt::format("microbatch {} belongs to another rank", m_));
    }
  }

  bool carries(ValueKind kind) const {
    const std::vector<Value>& values =
        instruction_.op == Op::kSend ? instruction_.reads : instruction_.writes;
    return !values.empty() && values[0].kind == kind;
  }

  void check_axis(const OpInfo& info) const {
    if (info.has_axis != (instruction_.stream == Stream::kComm)) {
      fail(info.has_axis ? "communication runs 'on comm'" : "only communication runs 'on comm'");
    }
    if (is_copy(instruction_.op) && instruction_.stream != Stream::kCopy)
      fail("copies between a device and its host run 'on copy'");
    const auto is_any_of = [&](std::initializer_list<GroupAxis> axes) {
      return std::find(axes.begin(), axes.end(), instruction_.axis) != axes.end();
    };
    using enum GroupAxis;
    bool good = instruction_.axis == kNone;
    if (instruction_.op == Op::kReduceGrads) good = is_any_of({kReplicate, kShard});
    if (instruction_.op == Op::kGatherGrads) good = is_any_of({kReplicate});
    if (instruction_.op == Op::kGatherParams || instruction_.op == Op::kGatherUpdated)
      good = is_any_of({kShard});
    if (instruction_.op == Op::kReduceScalar) good = is_any_of({place().parts_axis()});
    if (instruction_.op == Op::kGatherStats) good = is_any_of({kData});
    if (info.has_peer) good = is_any_of({kPipeline});
    const auto name = kGroupAxisNames[static_cast<size_t>(instruction_.axis)];
    if (!good) fail(fmt::format("it does not run over '{}'", name));
    if (info.has_axis && group_ranks(place(), instruction_.axis).size() < 2) {
      fail(fmt::format("there is one rank over {}: nothing to communicate", name));
    }
  }
};

}  // namespace

void check_place(const Facts& facts, size_t instruction) { PlaceRule(facts, instruction).check(); }

}  // namespace furrow::plan::rules
