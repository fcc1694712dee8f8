#include "furrow/plan/verify_world.h"

#include <fmt/format.h>

#include <algorithm>

#include "furrow/base/error.h"
#include "furrow/plan/exchange.h"
#include "furrow/plan/slices.h"
#include "furrow/plan/unit_facts.h"
#include "furrow/plan/value_bytes.h"
#include "furrow/plan/verify.h"

namespace furrow::plan {
namespace {

class WorldRule {
 public:
  WorldRule(std::span<const Program> programs, const ModelSpec& spec) : programs_(programs), spec_(spec) {}

  WorldReport check() {
    check_alone();
    model_ = model_facts(spec_);
    check_microbatches();
    find_communication();
    while (!finished()) {
      if (!advance()) fail_stuck();
    }
    return report_;
  }

 private:
  [[noreturn]] void fail(size_t rank, const std::string& message) const {
    throw Error(ErrorCode::kFailedPrecondition, fmt::format("rank {} {}", rank, message));
  }
  [[noreturn]] void fail_at(size_t rank, size_t index, const std::string& message) const {
    fail(rank, fmt::format("#{} {}: {}", index, to_string(programs_[rank].instructions[index]), message));
  }

  void check_alone() const {
    if (programs_.empty()) throw Error(ErrorCode::kFailedPrecondition, "a world has at least one program");
    const Program& first = programs_[0];
    if (static_cast<size_t>(first.placement.layout.world()) != programs_.size()) {
      throw Error(ErrorCode::kFailedPrecondition,
                  fmt::format("{} programs for {} ranks", programs_.size(), first.placement.layout.world()));
    }
    for (size_t rank = 0; rank < programs_.size(); ++rank) {
      const Program& program = programs_[rank];
      try {
        verify(program, spec_);
      } catch (const Error& error) {
        fail(rank, error.what());
      }
      if (program.placement != placement_of(first.placement, static_cast<int>(rank))) {
        fail(rank, "has the program of another rank, layout, stage or tree");
      }
      if (program.name != first.name || program.microbatch_sizes != first.microbatch_sizes) {
        fail(rank, "has a program of another name or batch than rank 0");
      }
    }
  }

  void check_microbatches() const {
    std::vector<int> taken(programs_[0].microbatch_sizes.size(), -1);
    for (size_t rank = 0; rank < programs_.size(); ++rank) {
      for (size_t i = 0; i < programs_[rank].instructions.size(); ++i) {
        const Instruction& instruction = programs_[rank].instructions[i];
        if (instruction.op != Op::kLoad) continue;
        int& owner = taken[instruction.microbatch];
        if (owner >= 0)
          fail_at(rank, i, fmt::format("rank {} has microbatch {} too", owner, instruction.microbatch));
        owner = static_cast<int>(rank);
      }
    }
    const auto missing = std::find(taken.begin(), taken.end(), -1);
    if (missing == taken.end()) return;
    throw Error(ErrorCode::kFailedPrecondition,
                fmt::format("no rank has microbatch {}", missing - taken.begin()));
  }

  void find_communication() {
    lists_.resize(programs_.size());
    next_.assign(programs_.size(), 0);
    for (size_t rank = 0; rank < programs_.size(); ++rank) {
      const auto& list = programs_[rank].instructions;
      for (size_t i = 0; i < list.size(); ++i) {
        if (list[i].stream == Stream::kComm) lists_[rank].push_back(i);
      }
    }
  }

  bool waits(size_t rank) const { return next_[rank] < lists_[rank].size(); }
  size_t head(size_t rank) const { return lists_[rank][next_[rank]]; }
  const Instruction& instruction(size_t rank) const { return programs_[rank].instructions[head(rank)]; }

  bool finished() const {
    for (size_t rank = 0; rank < programs_.size(); ++rank) {
      if (waits(rank)) return false;
    }
    return true;
  }

  // Runs every collective whose members have all come to it; whether there was one.
  bool advance() {
    bool moved = false;
    for (size_t rank = 0; rank < programs_.size(); ++rank) {
      while (waits(rank)) {
        const std::vector<int> group = group_ranks(programs_[rank].placement, instruction(rank).axis);
        if (!ready(rank, group)) break;
        check_collective(rank, group);
        for (const int member : group) ++next_[member];
        ++report_.collectives;
        moved = true;
      }
    }
    return moved;
  }

  bool ready(size_t rank, const std::vector<int>& group) const {
    return std::all_of(group.begin(), group.end(), [&](int member) {
      return waits(member) && instruction(member).axis == instruction(rank).axis;
    });
  }

  [[noreturn]] void fail_stuck() const {
    for (size_t rank = 0; rank < programs_.size(); ++rank) {
      if (!waits(rank)) continue;
      for (const int member : group_ranks(programs_[rank].placement, instruction(rank).axis)) {
        if (waits(member) && instruction(member).axis == instruction(rank).axis) continue;
        const std::string why =
            waits(member) ? fmt::format("waits in #{} {}", head(member), to_string(instruction(member)))
                          : std::string("has no more communication");
        fail_at(rank, head(rank), fmt::format("waits for rank {}, which {}", member, why));
      }
    }
    FURROW_CHECK(false, "communication is stuck, and nobody waits");
  }

  void check_collective(size_t rank, const std::vector<int>& group) const {
    const Instruction& mine = instruction(rank);
    for (const int member : group) {
      const Instruction& theirs = instruction(member);
      if (theirs.op == mine.op && theirs.unit == mine.unit && theirs.writes == mine.writes) continue;
      fail_at(member, head(member),
              fmt::format("meets rank {} in #{} {}, which differs", rank, head(rank), to_string(mine)));
    }
    if (mine.op == Op::kReduceGrads) check_nodes(rank, group);
    if (mine.op != Op::kReduceScalar) check_slices(rank);
  }

  // What members bring, each node once, adds up to what all of them write.
  void check_nodes(size_t rank, const std::vector<int>& group) const {
    const GradientTree tree(programs_[rank].placement,
                            static_cast<int32_t>(programs_[rank].microbatch_sizes.size()));
    NodeSet nodes(tree);
    std::vector<Range> brought;
    for (const int member : group) {
      for (const Value& value : instruction(member).reads) {
        const Range node{value.begin, value.end};
        const bool twice = std::any_of(brought.begin(), brought.end(), [&](const Range& other) {
          return node.begin < other.end && other.begin < node.end;
        });
        if (twice)
          fail_at(member, head(member), fmt::format("brings {}, which is there already", to_string(value)));
        brought.push_back(node);
        nodes.insert(node);
      }
    }
    std::vector<Range> written;
    for (const Value& value : instruction(rank).writes) written.push_back({value.begin, value.end});
    if (nodes.nodes() != written)
      fail_at(rank, head(rank), "what its group brings does not add up to what it writes");
  }

  void check_slices(size_t rank) const {
    const Instruction& mine = instruction(rank);
    const Placement& place = programs_[rank].placement;
    const FlatBuffer buffer = buffer_of(mine);
    const Part around = mine.axis == GroupAxis::kShard ? Part::kWhole : place.step_part();
    int64_t at = part_slice(model_.flat, place, buffer, around).begin;
    const int64_t end = part_slice(model_.flat, place, buffer, around).end;
    for (const Slice& slice : member_slices(model_.flat, place, buffer, mine.axis)) {
      if (slice.begin != at) fail_at(rank, head(rank), fmt::format("element {} has no owner, or two", at));
      at = slice.end;
    }
    if (at != end) fail_at(rank, head(rank), fmt::format("elements {} to {} have no owner", at, end - 1));
  }

  std::span<const Program> programs_;
  const ModelSpec& spec_;
  ModelFacts model_;
  std::vector<std::vector<size_t>> lists_;  // by rank: its communication
  std::vector<size_t> next_;                // by rank: which of them
  WorldReport report_;
};

}  // namespace

WorldReport verify_world(std::span<const Program> programs, const ModelSpec& spec) {
  return WorldRule(programs, spec).check();
}

}  // namespace furrow::plan
