// Runs the programs of all ranks on slots that hold symbols instead of numbers: an oracle for compile, the
// buffer pass, shares, slices and exchanges.  It takes from plan where parts lie and who is in a group, and
// nothing about trees, exchanges or order: what arrives is put together from what the members really brought.
//
// A symbol stands for kGrain elements of a flat buffer, and knows which ones, so that a part in a wrong
// place, a microbatch added twice and another order of addition each give another symbol.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "furrow/plan/flat_layout.h"
#include "furrow/plan/program.h"
#include "furrow/plan/slices.h"
#include "furrow/plan/value_bytes.h"

namespace furrow::plan::testing {

using Symbol = uint64_t;
using Symbols = std::vector<Symbol>;
inline constexpr int64_t kGrain = 16;

inline Symbol mix(Symbol a, Symbol b) {  // not commutative, not associative
  Symbol h = a * 0x9e3779b97f4a7c15u + 0x7f4a7c15u;
  h = (h ^ (h >> 29)) * 0xbf58476d1ce4e5b9u + b;
  h = (h ^ (h >> 32)) * 0x94d049bb133111ebu;
  return h ^ (h >> 31);
}
inline Symbol leaf_symbol(int unit, int use, int m, int64_t grain) {
  return mix(mix(mix(1, unit), mix(use, m)), static_cast<Symbol>(grain));
}
inline Symbol params_symbol(int unit, int64_t grain) { return mix(mix(2, unit), static_cast<Symbol>(grain)); }
inline Symbol state_symbol(int unit, int64_t grain) { return mix(mix(3, unit), static_cast<Symbol>(grain)); }
inline Symbol statistic_symbol(int unit, int64_t grain) {
  return mix(mix(6, unit), static_cast<Symbol>(grain));
}
inline Symbol batch_statistic_symbol(int unit, int m, int64_t grain) {
  return mix(mix(mix(7, unit), m), static_cast<Symbol>(grain));
}
inline Symbol folded_symbol(Symbol before, Symbol batch) { return mix(mix(8, before), batch); }
inline Symbol stepped_symbol(Symbol before, Symbol gradient) { return mix(mix(4, before), gradient); }

class WorldMachine {
 public:
  WorldMachine(const std::vector<Program>& programs, const FlatLayout& flat) : flat_(flat) {
    for (const Program& program : programs) ranks_.emplace_back(program, flat);
  }

  // Ranks run until each has ended or waits for others; communication blocks, which is the strictest order.
  void run() {
    for (Rank& rank : ranks_) start(&rank);
    bool moved = true;
    while (moved) {
      moved = false;
      for (Rank& rank : ranks_) moved = run_alone(&rank) || moved;
      for (Rank& rank : ranks_) moved = communicate(&rank) || moved;
    }
    take_rest();
    for (const Rank& rank : ranks_) {
      EXPECT_EQ(rank.next, rank.program.instructions.size())
          << "rank " << rank.program.placement.rank << " waits";
      for (const auto& [lane, queue] : sent_)
        EXPECT_TRUE(queue.empty()) << lane.first << " to " << lane.second;
      for (const Value& value : rank.program.outputs) {
        EXPECT_TRUE(rank.at(value).values.contains(value)) << to_string(value) << " is gone";
      }
    }
  }

  // What a rank has at the end, and which elements of the whole buffer that is.
  Symbols output(int rank, const Value& value) const { return ranks_[rank].read(value); }
  Slice slice(int rank, const Value& value) const { return ranks_[rank].slice(value); }

  std::set<std::pair<int, int64_t>> measured;                // unit and grain
  std::multiset<int> losses;                                 // microbatches
  std::map<std::pair<int, int>, int64_t> received_elements;  // by rank and Op: from others

 private:
  struct Cell {
    std::set<Value> values;  // several where they lie beside each other
    Symbols symbols;
  };

  // A transfer that has been posted: it happens as late as can be, when its receiver, or the next value in
  // the sender's slot, cannot wait any longer.
  using LaneOf = std::pair<int, int>;  // from, to: ranks of the world

  struct Rank {
    Rank(const Program& program_in, const FlatLayout& flat_in)
        : program(program_in), flat(flat_in), cells(program.slots.size()) {
      for (size_t s = 0; s < cells.size(); ++s)
        cells[s].symbols.resize(program.slots[s].bytes / 2 / kGrain + 1);  // 16 bits at least
    }

    const Cell& at(const Value& value) const { return cells[program.slot_of(value)]; }
    static bool is_flat(ValueKind kind) {
      return is_gradient(kind) || kind == ValueKind::kParams || kind == ValueKind::kGathered ||
             kind == ValueKind::kState || kind == ValueKind::kSnapshot || is_statistic(kind);
    }
    static bool is_statistic(ValueKind kind) {
      return kind == ValueKind::kBnStats || kind == ValueKind::kStats;
    }
    Slice slice(const Value& value) const {
      if (value.kind == ValueKind::kStats) return {0, flat.units[value.unit].kept_statistics()};
      if (value.kind == ValueKind::kBnStats) return {0, flat.units[value.unit].statistic_elements};
      return part_slice(flat, program.placement, buffer_of(value), value.part);
    }
    Symbols read(const Value& value) const {
      const SlotAssignment& home = program.home_of(value);
      EXPECT_TRUE(cells[home.slot].values.contains(value))
          << "rank " << program.placement.rank << " reads " << to_string(value);
      if (!is_flat(value.kind)) return {};
      const auto from = cells[home.slot].symbols.begin() + grain_of(home);
      return Symbols(from, from + slice(value).size() / kGrain);
    }
    void write(const Value& value, const Symbols& symbols) {
      const SlotAssignment& home = program.home_of(value);
      std::erase_if(cells[home.slot].values, [&](const Value& other) { return overlap(other, value); });
      cells[home.slot].values.insert(value);
      std::copy(symbols.begin(), symbols.end(), cells[home.slot].symbols.begin() + grain_of(home));
    }
    bool overlap(const Value& a, const Value& b) const {
      if (!is_flat(a.kind)) return true;
      const int64_t from = grain_of(program.home_of(a)), begin = grain_of(program.home_of(b));
      return from < begin + slice(b).size() / kGrain && begin < from + slice(a).size() / kGrain;
    }
    int64_t grain_of(const SlotAssignment& home) const {
      return home.offset == 0 ? 0 : home.offset / element_bytes(flat, home.value) / kGrain;
    }
    const Instruction& instruction() const { return program.instructions[next]; }
    bool done() const { return next == program.instructions.size(); }
    void finish_instruction() {
      for (const Value& value : instruction().drops) {
        cells[program.slot_of(value)].values.erase(value);
      }
      ++next;
    }

    const Program& program;
    const FlatLayout& flat;
    std::vector<Cell> cells;
    size_t next = 0;
  };

  Symbols made(const Rank& rank, const Value& value, Symbol (*symbol)(int, int64_t)) const {
    const Slice slice = rank.slice(value);
    Symbols symbols;
    for (int64_t g = slice.begin / kGrain; g < slice.end / kGrain; ++g)
      symbols.push_back(symbol(value.unit, g));
    return symbols;
  }

  void start(Rank* rank) {
    for (const Value& value : rank->program.inputs) {
      const bool state = value.kind == ValueKind::kState, statistic = value.kind == ValueKind::kStats;
      rank->write(value, made(*rank, value,
                              state       ? state_symbol
                              : statistic ? statistic_symbol
                                          : params_symbol));
    }
  }

  bool run_alone(Rank* rank) {
    const size_t before = rank->next;
    while (!rank->done()) {
      const Instruction& instruction = rank->instruction();
      const bool transfer = instruction.peer >= 0;
      if (instruction.stream == Stream::kComm && !transfer) break;
      if (!arrivals_ready(rank)) break;
      transfer ? post(rank) : execute(rank);
      rank->finish_instruction();
    }
    return rank->next != before;
  }

  int self_of(const Rank& rank) const { return rank.program.placement.rank; }

  void post(Rank* rank) {
    const Instruction& instruction = rank->instruction();
    const int peer = pipeline_peer(rank->program.placement, instruction.peer);
    if (instruction.op == Op::kSend) {
      rank->read(instruction.reads[0]);  // it is there
      sent_[{self_of(*rank), peer}].push_back(instruction.reads[0]);
    } else {
      for (const Value& value : instruction.reads) rank->read(value);
      received_[{peer, self_of(*rank)}].push_back(instruction.writes[0]);
    }
  }

  // Before an instruction touches the slot of a transfer that is under way, that transfer happens, and those
  // in front of it on its lane; whether they could.
  bool arrivals_ready(Rank* rank) {
    std::set<int32_t> slots;
    for (const Value& value : rank->instruction().reads) slots.insert(rank->program.slot_of(value));
    for (const Value& value : rank->instruction().writes) slots.insert(rank->program.slot_of(value));
    for (auto& [lane, queue] : received_) {
      if (lane.second == self_of(*rank) && !take_until(lane, *rank, queue, slots)) return false;
    }
    for (auto& [lane, queue] : sent_) {
      if (lane.first == self_of(*rank) && !take_until(lane, *rank, queue, slots)) return false;
    }
    return true;
  }

  bool take_until(LaneOf lane, const Rank& rank, const std::vector<Value>& queue,
                  const std::set<int32_t>& slots) {
    size_t count = 0;
    for (size_t i = 0; i < queue.size(); ++i) {
      if (slots.contains(rank.program.slot_of(queue[i]))) count = i + 1;
    }
    if (count > std::min(sent_[lane].size(), received_[lane].size())) return false;
    for (; count > 0; --count) {
      const Value sent = sent_[lane].front(), received = received_[lane].front();
      EXPECT_EQ(sent, received) << "lane " << lane.first << " to " << lane.second;
      ranks_[lane.second].write(received, ranks_[lane.first].read(sent));
      sent_[lane].erase(sent_[lane].begin());
      received_[lane].erase(received_[lane].begin());
    }
    return true;
  }

  // What is still under way when everybody has ended.
  void take_rest() {
    for (auto& [lane, queue] : received_) {
      while (!queue.empty() && !sent_[lane].empty()) {
        ranks_[lane.second].write(queue.front(), ranks_[lane.first].read(sent_[lane].front()));
        queue.erase(queue.begin());
        sent_[lane].erase(sent_[lane].begin());
      }
    }
  }

  void execute(Rank* rank) {
    const Instruction& instruction = rank->instruction();
    std::vector<Symbols> read;
    for (const Value& value : instruction.reads) {
      read.push_back(rank->read(value));
      if (value.kind == ValueKind::kGathered) {
        EXPECT_EQ(read.back(), made(*rank, value, params_symbol)) << to_string(instruction);
      }
    }
    if (instruction.op == Op::kMeasure) measure(*rank, read);
    for (const Value& value : instruction.writes) rank->write(value, result(*rank, value, read));
  }

  Symbols result(const Rank& rank, const Value& value, const std::vector<Symbols>& read) const {
    const Instruction& instruction = rank.instruction();
    switch (instruction.op) {
      case Op::kForward: {
        if (value.kind != ValueKind::kBnStats) return {};
        Symbols symbols;
        for (int64_t g = 0; g < rank.slice(value).size() / kGrain; ++g)
          symbols.push_back(batch_statistic_symbol(value.unit, value.index, g));
        return symbols;
      }
      case Op::kFoldStats: {
        Symbols running = read[0];
        for (size_t i = 1; i + 1 < read.size(); ++i) {
          for (size_t g = 0; g < running.size(); ++g) running[g] = folded_symbol(running[g], read[i].at(g));
        }
        return running;
      }
      case Op::kBackwardWeight: {
        Symbols symbols;
        for (int64_t g = 0; g < rank.slice(value).size() / kGrain; ++g)
          symbols.push_back(leaf_symbol(value.unit, value.index, value.begin, g));
        return symbols;
      }
      case Op::kRound:
      case Op::kWiden:
        return read[0];
      case Op::kAdd:
        return combine(read[0], read[1]);
      case Op::kAddTied:
        return add_tied(rank, read);
      case Op::kStep:
        return step(rank, value, read);
      case Op::kSnapshot:
        return made(rank, value, params_symbol);
      default:
        return {};
    }
  }

  static Symbols combine(const Symbols& a, const Symbols& b) {
    EXPECT_EQ(a.size(), b.size());
    Symbols sum;
    for (size_t i = 0; i < a.size() && i < b.size(); ++i) sum.push_back(mix(a[i], b[i]));
    return sum;
  }

  Symbols add_tied(const Rank& rank, const std::vector<Symbols>& read) const {
    const Instruction& instruction = rank.instruction();
    Symbols total = read[0];
    const int64_t begin = rank.slice(instruction.writes[0]).begin;
    for (size_t i = 1; i < read.size(); ++i) {
      const Value& value = instruction.reads[i];
      for (const TiedUse& tied : flat_.tied) {
        if (tied.owner_unit != value.unit || tied.use != value.index) continue;
        const int64_t at = tied.owner_offset + rank.slice(value).begin - begin;
        for (size_t g = 0; g < read[i].size(); ++g) {
          Symbol& symbol = total.at(static_cast<size_t>(at / kGrain) + g);
          symbol = mix(mix(5, symbol), read[i][g]);
        }
      }
    }
    return total;
  }

  // Parameters and state each move by their old symbol and the gradient's.
  Symbols step(const Rank& rank, const Value& value, const std::vector<Symbols>& read) const {
    const Instruction& instruction = rank.instruction();
    Symbols before, gradient;
    for (size_t i = 0; i < instruction.reads.size(); ++i) {
      const Value& source = instruction.reads[i];
      if (source.kind == value.kind) {
        const int64_t skip = (rank.slice(value).begin - rank.slice(source).begin) / kGrain;
        before.assign(read[i].begin() + skip, read[i].begin() + skip + rank.slice(value).size() / kGrain);
      }
      if (is_gradient(source.kind)) gradient = read[i];
    }
    Symbols after;
    for (size_t g = 0; g < before.size(); ++g) {  // what has no gradient is frozen
      after.push_back(g < gradient.size() ? stepped_symbol(before[g], gradient[g]) : before[g]);
    }
    return after;
  }

  void measure(const Rank& rank, const std::vector<Symbols>& read) {
    for (size_t i = 0; i < read.size(); ++i) {
      const Value& value = rank.instruction().reads[i];
      if (value.kind == ValueKind::kLoss) {
        losses.insert(value.index);
        continue;
      }
      const Slice own =
          part_slice(flat_, rank.program.placement, buffer_of(value), rank.program.placement.own_part());
      for (int64_t g = own.begin / kGrain; g < own.end / kGrain; ++g) {
        EXPECT_TRUE(measured.insert({value.unit, g}).second) << "measured twice";
      }
    }
  }

  bool communicate(Rank* rank) {
    if (rank->done() || rank->instruction().stream != Stream::kComm || rank->instruction().peer >= 0)
      return false;
    if (!arrivals_ready(rank)) return false;
    std::vector<Rank*> members;
    for (const int r : group_ranks(rank->program.placement, rank->instruction().axis))
      members.push_back(&ranks_[r]);
    for (Rank* member : members) {
      if (member->done() || member->instruction().axis != rank->instruction().axis) return false;
      if (!arrivals_ready(member)) return false;
    }
    const Instruction& first = rank->instruction();
    std::vector<std::vector<Symbols>> results;  // before anything is written: members work at the same time
    for (Rank* member : members) {
      EXPECT_EQ(member->instruction().op, first.op);
      EXPECT_EQ(member->instruction().unit, first.unit);
      results.emplace_back();
      for (const Value& value : member->instruction().writes)
        results.back().push_back(arrive(*member, value, members));
    }
    for (size_t i = 0; i < members.size(); ++i) {
      const Instruction& instruction = members[i]->instruction();
      for (size_t w = 0; w < instruction.writes.size(); ++w)
        members[i]->write(instruction.writes[w], results[i][w]);
      members[i]->finish_instruction();
    }
    return true;
  }

  Symbols arrive(const Rank& self, const Value& value, const std::vector<Rank*>& members) {
    if (value.kind == ValueKind::kSums) return {};
    if (value.kind == ValueKind::kBnStats) return brought(self, value, members);
    if (self.instruction().op == Op::kReduceGrads)
      return sum_of(self, value, {value.begin, value.end}, members);
    const Slice slice = self.slice(value);
    Symbols all(static_cast<size_t>(slice.size() / kGrain), 0);
    std::vector<int> written(all.size(), 0);
    for (const Rank* member : members) {
      const Value& source = member->instruction().reads.at(0);
      const Symbols symbols = member->read(source);
      if (member != &self) count(self, static_cast<int64_t>(symbols.size()) * kGrain);
      const auto at = static_cast<size_t>((member->slice(source).begin - slice.begin) / kGrain);
      for (size_t g = 0; g < symbols.size(); ++g) {
        all.at(at + g) = symbols[g];
        ++written.at(at + g);
      }
    }
    for (const int times : written) EXPECT_EQ(times, 1) << to_string(value);
    return all;
  }

  // The one member's that brings it.
  Symbols brought(const Rank& self, const Value& value, const std::vector<Rank*>& members) {
    std::optional<Symbols> found;
    for (const Rank* member : members) {
      const std::vector<Value>& reads = member->instruction().reads;
      if (std::find(reads.begin(), reads.end(), value) == reads.end()) continue;
      EXPECT_FALSE(found.has_value()) << to_string(value) << " is brought twice";
      found = member->read(value);
      count(self, static_cast<int64_t>(found->size()) * kGrain);
    }
    EXPECT_TRUE(found.has_value()) << "nobody brings " << to_string(value);
    return found.value_or(Symbols());
  }

  // [range) out of what members brought, split where the nodes at hand demand it.
  Symbols sum_of(const Rank& self, const Value& value, std::pair<int, int> range,
                 const std::vector<Rank*>& members) {
    const Slice slice = self.slice(value);
    std::optional<Symbols> found;
    for (const Rank* member : members) {
      for (const Value& node : member->instruction().reads) {
        if (node.index != value.index ||
            std::pair(node.begin, node.end) != std::pair(range.first, range.second))
          continue;
        EXPECT_FALSE(found.has_value()) << to_string(node) << " is brought twice";
        const Symbols symbols = member->read(node);
        const int64_t skip = (slice.begin - member->slice(node).begin) / kGrain;
        found = Symbols(symbols.begin() + skip, symbols.begin() + skip + slice.size() / kGrain);
        if (member != &self) count(self, slice.size());
      }
    }
    if (found.has_value()) return *found;
    if (range.second - range.first < 2) {
      ADD_FAILURE() << "nobody brings microbatch " << range.first << " of " << to_string(value);
      return Symbols(static_cast<size_t>(slice.size() / kGrain), 0);
    }
    const int middle = split(range);
    const Symbols left = sum_of(self, value, {range.first, middle}, members);
    return combine(left, sum_of(self, value, {middle, range.second}, members));
  }

  void count(const Rank& self, int64_t elements) {
    received_elements[{self.program.placement.rank, static_cast<int>(self.instruction().op)}] += elements;
  }

 public:
  std::function<int(std::pair<int, int>)> split;  // of the tree that is expected

 private:
  const FlatLayout& flat_;
  std::vector<Rank> ranks_;
  std::map<LaneOf, std::vector<Value>> sent_, received_;  // posted, not yet taken
};

}  // namespace furrow::plan::testing
