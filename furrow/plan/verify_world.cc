#include "furrow/plan/verify_world.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <map>
#include <optional>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/plan/buckets.h"
#include "furrow/plan/exchange.h"
#include "furrow/plan/slices.h"
#include "furrow/plan/tensor_cut.h"
#include "furrow/plan/unit_facts.h"
#include "furrow/plan/value_bytes.h"
#include "furrow/plan/value_index.h"
#include "furrow/plan/verify.h"

namespace furrow::plan {
namespace {

// One rank as the executor runs it: instructions are issued in program order, communication goes on beside
// them on queues, and an instruction waits for the communication that touches one of its homes.
class Rank {
 public:
  static constexpr int kCollectives = 0;
  static constexpr int kInside = 1;  // what an instruction of the rank's own thread does inside
  static int lane(Op direction, int peer) { return 2 + 2 * peer + (direction == Op::kRecv ? 1 : 0); }

  Rank(const Program& program, const ModelSpec& spec)
      : program_(program),
        ends_(run_ends(flat_layout(spec), program)),
        finished_(program.instructions.size(), false) {
    for (const Instruction& instruction : program.instructions) {
      meets_.push_back(!collectives_in(spec, instruction).empty());
      homes_.emplace_back();
      for (const std::vector<Value>* values : {&instruction.reads, &instruction.writes}) {
        for (const Value& value : *values) homes_.back().push_back(home_of(value));
      }
    }
    flights_.assign(static_cast<size_t>(std::max<int32_t>(values_.size(), slots())), -1);
  }

  // Issues what it can; whether there was any.
  bool issue() {
    const size_t before = next_;
    while (next_ < program_.instructions.size() && !blocker()) {
      const Instruction& instruction = program_.instructions[next_];
      if (meets_[next_] && !finished_[next_]) {
        if (queues_[kInside].empty()) queues_[kInside].push_back(next_);
        break;
      }
      if (instruction.stream == Stream::kComm) held_.push_back(next_);
      if (ends_[next_] == static_cast<int32_t>(next_)) start_held();
      ++next_;
    }
    return next_ != before;
  }

  std::optional<size_t> head(int queue) const {
    const auto found = queues_.find(queue);
    return found == queues_.end() || found->second.empty() ? std::nullopt
                                                           : std::optional(found->second.front());
  }
  void complete(int queue) {
    finished_[queues_[queue].front()] = true;
    queues_[queue].pop_front();
  }
  // How many instructions of its collective follow instruction i.
  int32_t more(size_t i) const { return ends_[i] - static_cast<int32_t>(i); }
  // The transfer that it waits for, else the first that is under way.
  std::optional<size_t> first_transfer() const {
    if (const auto waits = waits_for(); waits && program_.instructions[*waits].peer >= 0) return waits;
    for (const auto& [queue, list] : queues_) {
      if (queue > kInside && !list.empty()) return list.front();
    }
    return std::nullopt;
  }
  // The communication under way that its next instruction waits for.
  std::optional<size_t> waits_for() const {
    return next_ < program_.instructions.size() ? blocker() : std::nullopt;
  }
  bool finished() const {
    return next_ == program_.instructions.size() &&
           std::all_of(queues_.begin(), queues_.end(),
                       [](const auto& queue) { return queue.second.empty(); });
  }

 private:
  // The instructions of one collective, once the last of them is issued.
  void start_held() {
    for (const size_t i : std::exchange(held_, {})) {
      queues_[queue_of(program_.instructions[i])].push_back(i);
      for (const int32_t home : homes_[i]) flights_[home] = static_cast<int32_t>(i);
    }
  }
  int32_t slots() const { return static_cast<int32_t>(program_.slots.size()); }
  int32_t home_of(const Value& value) {
    return program_.slots.empty() ? values_.add(value) : program_.slot_of(value);
  }
  static int queue_of(const Instruction& instruction) {
    return instruction.peer < 0 ? kCollectives : lane(instruction.op, instruction.peer);
  }
  std::optional<size_t> blocker() const {
    for (const int32_t home : homes_[next_]) {
      const int32_t flight = flights_[home];
      if (flight >= 0 && !finished_[flight]) return static_cast<size_t>(flight);
    }
    return std::nullopt;
  }

  const Program& program_;
  const std::vector<int32_t> ends_;  // run_ends()
  std::vector<size_t> held_;
  ValueIndex values_;                        // homes, where there are no slots
  std::vector<std::vector<int32_t>> homes_;  // by instruction: what it touches
  std::vector<int32_t> flights_;             // by home: the last communication that touched it
  std::map<int, std::deque<size_t>> queues_;
  std::vector<bool> finished_;
  std::vector<bool> meets_;  // by instruction: it communicates inside
  size_t next_ = 0;
};

class WorldRule {
 public:
  WorldRule(std::span<const Program> programs, const ModelSpec& spec) : programs_(programs), spec_(spec) {}

  WorldReport check() {
    check_alone();
    model_ = model_facts(spec_);
    check_microbatches();
    for (const Program& program : programs_) ranks_.emplace_back(program, spec_);
    while (advance()) {
    }
    for (size_t rank = 0; rank < ranks_.size(); ++rank) {
      if (!ranks_[rank].finished()) fail_stuck();
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

  // By pp and tp coordinate: a rank without a load of a microbatch that its peers have waits for it in vain.
  void check_microbatches() const {
    const Placement& first = programs_[0].placement;
    const auto stages = static_cast<size_t>(first.pipeline_ranks() * first.tensor_ranks());
    const size_t k = programs_[0].microbatch_sizes.size();
    std::vector<int> taken(stages * k, -1);
    for (size_t rank = 0; rank < programs_.size(); ++rank) {
      const Placement& own = programs_[rank].placement;
      const auto stage = static_cast<size_t>(own.pipeline_rank() * own.tensor_ranks() + own.tensor_rank());
      for (size_t i = 0; i < programs_[rank].instructions.size(); ++i) {
        const Instruction& instruction = programs_[rank].instructions[i];
        if (instruction.op != Op::kLoad) continue;
        int& owner = taken[stage * k + static_cast<size_t>(instruction.microbatch)];
        if (owner >= 0)
          fail_at(rank, i, fmt::format("rank {} has microbatch {} too", owner, instruction.microbatch));
        owner = static_cast<int>(rank);
      }
    }
    const auto missing = std::find(taken.begin(), taken.end(), -1);
    if (missing == taken.end()) return;
    throw Error(ErrorCode::kFailedPrecondition,
                fmt::format("no rank has microbatch {}", static_cast<size_t>(missing - taken.begin()) % k));
  }

  // Issues and completes all that can be: a choice never spoils a later one, so what is stuck here is stuck
  // in every execution.
  bool advance() {
    bool moved = false;
    for (Rank& rank : ranks_) moved = rank.issue() || moved;
    for (size_t rank = 0; rank < ranks_.size(); ++rank) {
      while (run_collective(rank)) moved = true;
      while (run_inside(rank)) moved = true;
      while (run_transfer(rank)) moved = true;
    }
    return moved;
  }

  bool run_collective(size_t rank) {
    const std::optional<size_t> own = ranks_[rank].head(Rank::kCollectives);
    if (!own) return false;
    const std::vector<int> group = group_ranks(programs_[rank].placement, at(rank, *own).axis);
    for (const int member : group) {
      const std::optional<size_t> theirs = ranks_[member].head(Rank::kCollectives);
      if (!theirs || at(member, *theirs).axis != at(rank, *own).axis) return false;
    }
    check_collective(rank, group);
    for (const int member : group) ranks_[member].complete(Rank::kCollectives);
    ++report_.collectives;
    return true;
  }

  // All ranks of a tensor axis are inside an instruction, which must be the same one.
  bool run_inside(size_t rank) {
    const std::optional<size_t> own = ranks_[rank].head(Rank::kInside);
    if (!own) return false;
    const std::vector<int> group = group_ranks(programs_[rank].placement, GroupAxis::kTensor);
    for (const int member : group) {
      if (!ranks_[member].head(Rank::kInside)) return false;
    }
    const Instruction& mine = at(rank, *own);
    for (const int member : group) {
      const size_t index = *ranks_[member].head(Rank::kInside);
      const Instruction& theirs = at(member, index);
      if (theirs.op == mine.op && theirs.unit == mine.unit && theirs.microbatch == mine.microbatch &&
          theirs.writes == mine.writes)
        continue;
      fail_at(member, index,
              fmt::format("meets rank {} over tp inside #{} {}, which differs", rank, *own, to_string(mine)));
    }
    for (const int member : group) ranks_[member].complete(Rank::kInside);
    report_.collectives += static_cast<int64_t>(collectives_in(spec_, mine).size());
    return true;
  }

  // Both ends at once: a send ends when its receive does.
  bool run_transfer(size_t rank) {
    const Placement& place = programs_[rank].placement;
    for (int peer = 0; peer < place.pipeline_ranks(); ++peer) {
      const auto other = static_cast<size_t>(pipeline_peer(place, peer));
      const int out = Rank::lane(Op::kSend, peer), in = Rank::lane(Op::kRecv, place.pipeline_rank());
      const std::optional<size_t> sent = ranks_[rank].head(out), received = ranks_[other].head(in);
      if (!sent || !received) continue;
      const Instruction& send = at(rank, *sent);
      const Instruction& receive = at(other, *received);
      if (send.reads[0] != receive.writes[0]) {
        fail_at(other, *received,
                fmt::format("meets rank {} in #{} {}, which carries {} and not {}", rank, *sent,
                            to_string(send), to_string(send.reads[0]), to_string(receive.writes[0])));
      }
      ranks_[rank].complete(out);
      ranks_[other].complete(in);
      ++report_.transfers;
      return true;
    }
    return false;
  }

  // Names the first rank that waits, and whom it waits for.
  [[noreturn]] void fail_stuck() const {
    for (size_t rank = 0; rank < ranks_.size(); ++rank) {
      const std::optional<size_t> collective = ranks_[rank].head(Rank::kCollectives);
      if (!collective) continue;
      for (const int member : group_ranks(programs_[rank].placement, at(rank, *collective).axis)) {
        const std::optional<size_t> theirs = ranks_[member].head(Rank::kCollectives);
        if (theirs && at(member, *theirs).axis == at(rank, *collective).axis) continue;
        fail_at(rank, *collective, fmt::format("waits for rank {}, which {}", member, state_of(member)));
      }
    }
    for (size_t rank = 0; rank < ranks_.size(); ++rank) {
      const std::optional<size_t> inside = ranks_[rank].head(Rank::kInside);
      if (!inside) continue;
      for (const int member : group_ranks(programs_[rank].placement, GroupAxis::kTensor)) {
        if (ranks_[member].head(Rank::kInside)) continue;
        fail_at(rank, *inside, fmt::format("waits over tp for rank {}, which {}", member, state_of(member)));
      }
    }
    for (size_t rank = 0; rank < ranks_.size(); ++rank) {
      const std::optional<size_t> transfer = ranks_[rank].first_transfer();
      if (!transfer) continue;
      const int peer = pipeline_peer(programs_[rank].placement, at(rank, *transfer).peer);
      fail_at(rank, *transfer,
              fmt::format("waits for rank {}, which {}", peer, state_of(static_cast<size_t>(peer))));
    }
    FURROW_CHECK(false, "communication is stuck, and nobody waits");
  }

  std::string state_of(size_t rank) const {
    const std::optional<size_t> collective = ranks_[rank].head(Rank::kCollectives);
    const std::optional<size_t> waits = collective ? collective : ranks_[rank].waits_for();
    if (waits) return fmt::format("waits in #{} {}", *waits, to_string(at(rank, *waits)));
    return "has no more communication";
  }

  const Instruction& at(size_t rank, size_t index) const { return programs_[rank].instructions[index]; }
  size_t head(size_t rank) const { return *ranks_[rank].head(Rank::kCollectives); }
  const Instruction& instruction(size_t rank) const { return at(rank, head(rank)); }

  void check_collective(size_t rank, const std::vector<int>& group) const {
    const Instruction& mine = instruction(rank);
    for (const int member : group) {
      const Instruction& theirs = instruction(member);
      const bool same_writes = mine.op == Op::kGatherStats || theirs.writes == mine.writes;
      const bool same_run = ranks_[member].more(head(member)) == ranks_[rank].more(head(rank));
      if (theirs.op == mine.op && theirs.unit == mine.unit && same_writes && same_run) continue;
      fail_at(member, head(member),
              fmt::format("meets rank {} in #{} {}, which differs", rank, head(rank), to_string(mine)));
    }
    if (mine.op == Op::kReduceGrads) check_nodes(rank, group);
    if (mine.op == Op::kGatherStats) return check_statistics(rank, group);
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

  // Each value is brought by one member and written by every other one.
  void check_statistics(size_t rank, const std::vector<int>& group) const {
    std::vector<Value> brought;
    for (const int member : group) {
      const Instruction& theirs = instruction(member);
      brought.insert(brought.end(), theirs.reads.begin(), theirs.reads.end());
    }
    std::sort(brought.begin(), brought.end());
    for (const int member : group) {
      std::vector<Value> held = instruction(member).reads;
      held.insert(held.end(), instruction(member).writes.begin(), instruction(member).writes.end());
      std::sort(held.begin(), held.end());
      if (held != brought)
        fail_at(member, head(member),
                fmt::format("does not end with what the group of rank {} brings", rank));
    }
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
  std::vector<Rank> ranks_;
  WorldReport report_;
};

}  // namespace

WorldReport verify_world(std::span<const Program> programs, const ModelSpec& spec) {
  return WorldRule(programs, spec).check();
}

}  // namespace furrow::plan
