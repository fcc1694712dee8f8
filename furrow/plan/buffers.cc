#include "furrow/plan/buffers.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>
#include <queue>
#include <tuple>
#include <utility>

#include "furrow/base/error.h"
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
    homes_.assign(values_.size(), {});
    for (const Value& value : program_.inputs) homes_[values_.find(value)] = {take(value), 0};
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

  SlotKey key_of(const Value& value) const {
    return {slot_class(value.kind), grows(value) ? 0 : value_bytes(bytes_, value)};
  }

  int32_t take(const Value& value) {
    const SlotKey key = key_of(value);
    const int64_t bytes = value_bytes(bytes_, value);
    FreeSlots& free = free_[key];
    if (!free.empty()) {
      const int32_t slot = free.top();
      free.pop();
      if (grows(value)) program_.slots[slot].bytes = std::max(program_.slots[slot].bytes, bytes);
      return slot;
    }
    program_.slots.push_back({memory_kind(value.kind), bytes});
    keys_.push_back(key);
    return static_cast<int32_t>(program_.slots.size()) - 1;
  }

  void place(const Instruction& instruction) {
    std::vector<Value> replaced;
    for (const Value& value : instruction.writes) {
      Home& home = homes_[values_.find(value)];
      FURROW_CHECK(home.slot == kUnset, to_string(value) + " is written twice");
      const Value* source = stays_in_place(instruction, value);
      if (source == nullptr) {
        home.slot = take(value);
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
      released.push_back(homes_[values_.find(value)].slot);
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
  std::vector<SlotKey> keys_;  // by slot
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
