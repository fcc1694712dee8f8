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
  Assigner(const ByteContext& bytes, Program* program) : bytes_(bytes), program_(*program) {
    program_.slots.clear();
    program_.assignments.clear();
    values_.reserve(program_.instructions.size() * 3);
  }

  void run() {
    find_last_uses();
    set_drops();
    slots_.assign(values_.size(), kUnset);
    for (const Value& value : program_.inputs) slots_[values_.find(value)] = take(value);
    for (const Instruction& instruction : program_.instructions) place(instruction);
    for (int32_t v = 0; v < values_.size(); ++v)
      program_.assignments.push_back({values_.value(v), slots_[v], 0});
    std::sort(program_.assignments.begin(), program_.assignments.end(),
              [](const SlotAssignment& a, const SlotAssignment& b) { return a.value < b.value; });
  }

 private:
  using SlotKey = std::pair<ValueKind, int64_t>;
  using FreeSlots = std::priority_queue<int32_t, std::vector<int32_t>, std::greater<>>;

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

  SlotKey key_of(const Value& value) const { return {slot_class(value.kind), value_bytes(bytes_, value)}; }

  int32_t take(const Value& value) {
    const SlotKey key = key_of(value);
    FreeSlots& free = free_[key];
    if (!free.empty()) {
      const int32_t slot = free.top();
      free.pop();
      return slot;
    }
    program_.slots.push_back({memory_kind(value.kind), key.second});
    return static_cast<int32_t>(program_.slots.size()) - 1;
  }

  void place(const Instruction& instruction) {
    std::vector<Value> replaced;
    for (const Value& value : instruction.writes) {
      const int32_t number = values_.find(value);
      FURROW_CHECK(slots_[number] == kUnset, to_string(value) + " is written twice");
      const Value* source = in_place_source(instruction, value);
      if (source == nullptr) {
        slots_[number] = take(value);
      } else {
        slots_[number] = slots_[values_.find(*source)];
        replaced.push_back(*source);
      }
    }
    for (const Value& value : instruction.drops) {
      if (std::find(replaced.begin(), replaced.end(), value) != replaced.end()) continue;
      free_[key_of(value)].push(slots_[values_.find(value)]);
    }
  }

  const ByteContext& bytes_;
  Program& program_;
  ValueIndex values_;
  std::vector<int32_t> last_use_;  // by value number; kUnset: an output, or an input that nothing reads
  std::vector<int32_t> slots_;
  std::map<SlotKey, FreeSlots> free_;
};

}  // namespace

void assign_buffers(const ModelSpec& spec, const FlatLayout& flat, int optimizer_state_copies,
                    Program* program) {
  const ByteContext bytes{spec, flat, program->microbatch_sizes, program->placement, optimizer_state_copies};
  Assigner(bytes, program).run();
}

}  // namespace furrow::plan
