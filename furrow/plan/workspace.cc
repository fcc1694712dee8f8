#include "furrow/plan/workspace.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <vector>

#include "furrow/plan/buckets.h"
#include "furrow/plan/exchange.h"
#include "furrow/plan/flat_layout.h"
#include "furrow/plan/slices.h"
#include "furrow/plan/tensor_cut.h"
#include "furrow/plan/unit_facts.h"
#include "furrow/plan/value_bytes.h"

namespace furrow::plan {
namespace {

// Buffers that are free again, and what has been taken in all.
class Pool {
 public:
  // The first that is large enough.
  int64_t take(int64_t bytes) {
    const auto found = std::ranges::find_if(free_, [bytes](int64_t each) { return each >= bytes; });
    if (found == free_.end()) {
      made_ += bytes;
      return bytes;
    }
    const int64_t taken = *found;
    free_.erase(found);
    return taken;
  }
  void give(int64_t bytes) { free_.push_back(bytes); }
  int64_t made() const { return made_; }

 private:
  std::vector<int64_t> free_;
  int64_t made_ = 0;
};

// The exchanges of a program, as the executor starts and lands them.
class Exchanges {
 public:
  Exchanges(const Program& program, const ModelSpec& spec)
      : program_(program), flat_(flat_layout(spec)), ends_(run_ends(flat_, program)) {}

  void step() {
    int64_t bytes = 0;           // of the run so far
    std::vector<int32_t> slots;  // the same
    for (size_t i = 0; i < ends_.size(); ++i) {
      const Instruction& instruction = program_.instructions[i];
      for (const auto* values : {&instruction.reads, &instruction.writes}) {
        for (const Value& value : *values) land(value);
      }
      if (instruction.op != Op::kReduceGrads || instruction.writes.empty()) continue;
      bytes += received(instruction);
      for (const int32_t slot : slots_of(instruction)) slots.push_back(slot);
      if (ends_[i] != static_cast<int32_t>(i)) continue;
      bytes = (bytes + kFloatBytes - 1) / kFloatBytes * kFloatBytes;
      if (bytes > 0) flying_.push_back({slots, pool_.take(bytes)});
      bytes = 0;
      slots.clear();
    }
    while (!flying_.empty()) land(flying_.begin());
  }
  int64_t bytes() const { return pool_.made(); }

 private:
  struct Flight {
    std::vector<int32_t> slots;  // that it touches
    int64_t bytes;
  };

  void land(std::vector<Flight>::iterator flight) {
    pool_.give(flight->bytes);
    flying_.erase(flight);
  }

  void land(const Value& value) {
    if (flying_.empty() || !is_gradient(value.kind)) return;
    const int32_t slot = program_.slot_of(value);
    const auto found = std::ranges::find_if(flying_, [slot](const Flight& flight) {
      return std::ranges::find(flight.slots, slot) != flight.slots.end();
    });
    if (found != flying_.end()) land(found);
  }

  std::vector<int32_t> slots_of(const Instruction& instruction) const {
    std::vector<int32_t> slots;
    for (const auto* values : {&instruction.reads, &instruction.writes}) {
      for (const Value& value : *values) slots.push_back(program_.slot_of(value));
    }
    return slots;
  }

  // Nodes of the others, of which this rank has a slice each; who brings how many depends on the axis and the
  // round, not on the unit.
  int64_t received(const Instruction& instruction) {
    const auto [found, first] = nodes_.try_emplace(
        {instruction.axis, instruction.writes.front().begin, instruction.writes.back().end});
    Nodes& nodes = found->second;
    if (first) {
      const Exchange exchange = exchange_of(program_, instruction);
      nodes.self = exchange.self;
      for (size_t member = 0; member < exchange.nodes.size() && !exchange.plain; ++member) {
        if (member != exchange.self) nodes.others += static_cast<int64_t>(exchange.nodes[member].size());
      }
    }
    if (nodes.others == 0) return 0;
    const std::vector<Slice> slices =
        member_slices(flat_, program_.placement, buffer_of(instruction), instruction.axis);
    return nodes.others * slices[nodes.self].size() * flat_.gradient_bytes();
  }

  struct Nodes {
    size_t self = 0;
    int64_t others = 0;
  };

  const Program& program_;
  const FlatLayout flat_;
  const std::vector<int32_t> ends_;
  std::map<std::tuple<GroupAxis, int32_t, int32_t>, Nodes> nodes_;
  std::vector<Flight> flying_;
  Pool pool_;
};

}  // namespace

// Until a step takes no more than the one before has left.
int64_t exchange_staging_bytes(const Program& program, const ModelSpec& spec) {
  constexpr int kMostSteps = 4;
  if (program.placement.data_ranks() == 1) return 0;
  Exchanges exchanges(program, spec);
  int64_t before = -1;
  for (int step = 0; step < kMostSteps && exchanges.bytes() != before; ++step) {
    before = exchanges.bytes();
    exchanges.step();
    if (exchanges.bytes() == 0) break;
  }
  return exchanges.bytes();
}

int64_t device_sums_bytes(const Program& program, const ModelSpec& spec) {
  constexpr int64_t kPiece = int64_t{32} << 20;  // of all ranks' slices
  const FlatLayout flat = flat_layout(spec);
  const int64_t element = flat.gradient_bytes();
  int64_t most = 0;
  for (const Instruction& instruction : program.instructions) {
    if (instruction.op != Op::kReduceGrads || instruction.writes.empty()) continue;
    const Exchange exchange = exchange_of(program, instruction);
    const auto others = static_cast<int64_t>(exchange.ranks.size()) - 1;
    if (!exchange.plain || (others == 1 && element == kFloatBytes)) continue;
    const std::vector<Slice> slices =
        member_slices(flat, program.placement, buffer_of(instruction), instruction.axis);
    const int64_t piece = std::max<int64_t>(1, kPiece / element / (others + 1));
    most = std::max(most, others * std::min(slices[exchange.self].size(), piece) * element);
  }
  return most;
}

int64_t axis_workspace_bytes(const ModelSpec& part, int64_t samples) {
  constexpr int64_t kBlock = int64_t{1} << 20, kPiece = int64_t{4} << 20;
  const int degree = tensor_degree(part);
  if (degree == 1) return 0;
  const ModelFacts facts = model_facts(part);
  std::vector<int64_t> blocks;
  for (size_t u = 0; u < part.units.size(); ++u) {
    for (const UnitCollective& each : part.units[u].collectives) {
      if (each.with_input_gradient && !facts.units[u].passes) continue;
      const int64_t bytes = each.bytes(samples);
      int64_t room = 0;  // of a scattered sum ranks read what they add where it lies
      if (each.op == UnitCollective::Op::kAllReduce) room = std::min(bytes, kPiece);
      if (each.op == UnitCollective::Op::kAllGather) room = bytes / degree;
      const bool fits = std::ranges::any_of(blocks, [room](int64_t block) { return room <= block; });
      if (!fits) blocks.push_back(std::max(room, kBlock));
    }
  }
  int64_t bytes = 0;
  for (const int64_t block : blocks) bytes += block;
  return bytes;
}

}  // namespace furrow::plan
