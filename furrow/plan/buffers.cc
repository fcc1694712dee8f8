#include "furrow/plan/buffers.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>
#include <queue>
#include <span>
#include <tuple>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/plan/buckets.h"
#include "furrow/plan/value_bytes.h"
#include "furrow/plan/value_index.h"

namespace furrow::plan {
namespace {

constexpr int32_t kUnset = -1;

class Assigner {
 public:
  Assigner(const ByteContext& bytes, const std::vector<Hold>& holds, Program* program)
      : bytes_(bytes), holds_(holds), program_(*program) {
    program_.slots.clear();
    program_.assignments.clear();
    values_.reserve(program_.instructions.size() * 3);
  }

  void run() {
    find_last_uses();
    set_drops();
    find_neighbours();
    homes_.assign(values_.size(), {});
    for (const Value& value : program_.inputs) homes_[values_.find(value)] = take(value);
    for (const Instruction& instruction : program_.instructions) place(instruction);
    for (int32_t v = 0; v < values_.size(); ++v)
      program_.assignments.push_back({values_.value(v), homes_[v].slot, homes_[v].offset});
    std::sort(program_.assignments.begin(), program_.assignments.end(),
              [](const SlotAssignment& a, const SlotAssignment& b) { return a.value < b.value; });
  }

 private:
  using SlotKey = std::pair<ValueKind, int64_t>;
  using FreeSlots = std::priority_queue<int32_t, std::vector<int32_t>, std::greater<>>;
  struct Home {
    int32_t slot = kUnset;
    int64_t offset = 0;
  };

  void use(const Value& value, int32_t at) {
    const int32_t number = values_.add(value);
    if (number == static_cast<int32_t>(last_use_.size())) last_use_.push_back(at);
    last_use_[number] = at;
  }

  void find_last_uses() {
    for (const Value& value : program_.inputs) use(value, kUnset);
    for (size_t i = 0; i < program_.instructions.size(); ++i) {
      for (const Value& value : program_.instructions[i].reads) use(value, static_cast<int32_t>(i));
      for (const Value& value : program_.instructions[i].writes) use(value, static_cast<int32_t>(i));
    }
    for (const Hold& hold : holds_) {
      int32_t& last = last_use_[values_.find(hold.value)];
      last = std::max(last, hold.until);
    }
    for (const Value& value : program_.outputs) {
      const int32_t number = values_.find(value);
      FURROW_CHECK(number >= 0, to_string(value) + " is an output that nothing writes");
      last_use_[number] = kUnset;
    }
  }

  void set_drops() {
    for (Instruction& instruction : program_.instructions) instruction.drops.clear();
    for (int32_t v = 0; v < values_.size(); ++v) {
      if (last_use_[v] != kUnset) program_.instructions[last_use_[v]].drops.push_back(values_.value(v));
    }
    for (Instruction& instruction : program_.instructions)
      std::sort(instruction.drops.begin(), instruction.drops.end());
  }

  // Units of all sizes take turns in the slots of the host, which grow with them.
  static bool grows(const Value& value) { return value.kind == ValueKind::kHosted; }

  // Values that collectives of a bucket read or write side by side: they lie end to end in one slot.
  struct Neighbours {
    std::vector<int32_t> values;  // of each, by number, the first in its place
    int64_t bytes = 0;
    int32_t slot = kUnset;  // from the first that is written to the last that is dropped
    size_t living = 0;
  };
  struct Seat {
    int32_t neighbours = kUnset;
    int64_t offset = 0;
  };

  // By value number, which one was written into memory of its own that it lies in now.
  std::vector<int32_t> firsts() const {
    std::vector<int32_t> first(values_.size());
    for (size_t v = 0; v < first.size(); ++v) first[v] = static_cast<int32_t>(v);
    for (const Instruction& instruction : program_.instructions) {
      for (const Value& value : instruction.writes) {
        const Value* source = stays_in_place(instruction, value);
        if (source != nullptr) first[values_.find(value)] = first[values_.find(*source)];
      }
    }
    return first;
  }

  void find_neighbours() {
    seats_.assign(values_.size(), {});
    const std::vector<int32_t> first = firsts(), ends = run_ends(bytes_.flat, program_);
    for (size_t i = 0; i < ends.size(); i = static_cast<size_t>(ends[i]) + 1) {
      if (static_cast<size_t>(ends[i]) == i) continue;
      const std::span<const Instruction> run(&program_.instructions[i], static_cast<size_t>(ends[i]) - i + 1);
      for (size_t n = 0; n < run[0].reads.size(); ++n)
        seat(run, [n](const Instruction& each) -> const Value& { return each.reads[n]; }, first);
      for (size_t n = 0; n < run[0].writes.size(); ++n)
        seat(run, [n](const Instruction& each) -> const Value& { return each.writes[n]; }, first);
    }
  }

  // One value of each instruction of a run.  Parameters lie where the model has them.
  template <class Pick>
  void seat(std::span<const Instruction> run, const Pick& pick, const std::vector<int32_t>& first) {
    Neighbours neighbours;
    for (const Instruction& each : run) {
      const Value& value = pick(each);
      const int32_t number = first[values_.find(value)];
      if (value.kind == ValueKind::kParams || seats_[number].neighbours != kUnset) return;
      neighbours.values.push_back(number);
    }
    for (const int32_t number : neighbours.values) {
      seats_[number] = {static_cast<int32_t>(neighbours_.size()), neighbours.bytes};
      neighbours.bytes += value_bytes(bytes_, values_.value(number));
    }
    neighbours_.push_back(std::move(neighbours));
  }

  SlotKey key_of(const Value& value, int64_t bytes) const {
    return {slot_class(value.kind), grows(value) ? 0 : bytes};
  }

  Home take(const Value& value) {
    const Seat seat = seats_[values_.find(value)];
    if (seat.neighbours == kUnset) return {take(value, value_bytes(bytes_, value)), 0};
    Neighbours& neighbours = neighbours_[seat.neighbours];
    if (neighbours.slot == kUnset) {
      neighbours.slot = take(value, neighbours.bytes);
      neighbours.living = neighbours.values.size();
      shared_[neighbours.slot] = seat.neighbours;
    }
    return {neighbours.slot, seat.offset};
  }

  int32_t take(const Value& value, int64_t bytes) {
    const SlotKey key = key_of(value, bytes);
    FreeSlots& free = free_[key];
    if (!free.empty()) {
      const int32_t slot = free.top();
      free.pop();
      if (grows(value)) program_.slots[slot].bytes = std::max(program_.slots[slot].bytes, bytes);
      return slot;
    }
    program_.slots.push_back({memory_kind(value.kind), bytes});
    keys_.push_back(key);
    shared_.push_back(kUnset);
    return static_cast<int32_t>(program_.slots.size()) - 1;
  }

  // Whether nothing lives in the slot any more, of which a value is dropped.
  bool empties(int32_t slot) {
    if (shared_[slot] == kUnset) return true;
    if (--neighbours_[shared_[slot]].living > 0) return false;
    shared_[slot] = kUnset;
    return true;
  }

  void place(const Instruction& instruction) {
    std::vector<Value> replaced;
    for (const Value& value : instruction.writes) {
      Home& home = homes_[values_.find(value)];
      FURROW_CHECK(home.slot == kUnset, to_string(value) + " is written twice");
      const Value* source = stays_in_place(instruction, value);
      if (source == nullptr) {
        home = take(value);
      } else {
        home = homes_[values_.find(*source)];
        home.offset += (value_slice(bytes_, value).begin - value_slice(bytes_, *source).begin) *
                       element_bytes(bytes_.flat, value);
        replaced.push_back(*source);
      }
    }
    std::vector<int32_t> released;
    for (const Value& value : instruction.drops) {
      if (std::find(replaced.begin(), replaced.end(), value) != replaced.end()) continue;
      const int32_t slot = homes_[values_.find(value)].slot;
      if (empties(slot)) released.push_back(slot);
    }
    // Whoever takes the slot of a value that communication still reads has to wait for it, so such slots rest
    // until the next communication of that kind.
    if (instruction.stream == Stream::kComm) std::swap(released, resting_[instruction.op]);
    for (const int32_t slot : released) free_[keys_[slot]].push(slot);
  }

  // ZeRO-2 and 3 keep shards only: a shard inside the whole buffer would keep that alive.
  const Value* stays_in_place(const Instruction& instruction, const Value& value) const {
    const bool shrinks = instruction.op == Op::kReduceGrads && instruction.axis == GroupAxis::kShard;
    if (shrinks && program_.placement.reduces_each_microbatch()) return nullptr;
    return in_place_source(instruction, value);
  }

  const ByteContext& bytes_;
  const std::vector<Hold>& holds_;
  Program& program_;
  ValueIndex values_;
  std::vector<int32_t> last_use_;  // by value number; kUnset: an output, or an input that nothing reads
  std::vector<Home> homes_;
  std::vector<Neighbours> neighbours_;
  std::vector<Seat> seats_;      // by value number
  std::vector<SlotKey> keys_;    // by slot
  std::vector<int32_t> shared_;  // by slot: by which neighbours
  std::map<SlotKey, FreeSlots> free_;
  std::map<Op, std::vector<int32_t>> resting_;
};

}  // namespace

void assign_buffers(const BufferRequest& request, Program* program) {
  const ByteContext bytes{request.spec, request.flat, program->microbatch_sizes, program->placement,
                          program->states};
  Assigner(bytes, request.holds, program).run();
}

}  // namespace furrow::plan
