// The report: peak memory by kind.  Flat buffers stay allocated, so they count with all their slots; other
// values are freed one by one, so they count with the largest sum of what lives at once.
#include <algorithm>

#include "furrow/plan/value_bytes.h"
#include "furrow/plan/verify_rules.h"

namespace furrow::plan::rules {
namespace {

class MemoryReport {
 public:
  explicit MemoryReport(const Facts& facts) : facts_(facts), program_(facts.program) {}

  VerifyReport make() {
    report_.instructions = static_cast<int64_t>(program_.instructions.size());
    if (!facts_.finished()) return report_;
    find_slots();
    count_persistent();
    live_ = report_.peak_bytes;
    for (const Instruction& instruction : program_.instructions) count(instruction);
    return report_;
  }

 private:
  void find_slots() {
    slot_.assign(facts_.values.size(), 0);
    for (const SlotAssignment& assignment : program_.assignments) {
      slot_[facts_.values.find(assignment.value)] = assignment.slot;
    }
  }

  void count_persistent() {
    std::vector<bool> persistent(program_.slots.size(), false);
    for (int32_t v = 0; v < facts_.values.size(); ++v) {
      if (is_persistent(facts_.values.value(v).kind)) persistent[slot_[v]] = true;
    }
    for (size_t s = 0; s < program_.slots.size(); ++s) {
      if (persistent[s]) report_.peak_bytes[index(program_.slots[s].kind)] += program_.slots[s].bytes;
    }
  }

  void count(const Instruction& instruction) {
    for (const Value& value : instruction.writes) {
      if (is_persistent(value.kind)) continue;
      const Slot& slot = slot_of(value);
      int64_t& live = live_[index(slot.kind)];
      live += slot.bytes;
      int64_t& peak = report_.peak_bytes[index(slot.kind)];
      peak = std::max(peak, live);
    }
    for (const Value& value : instruction.drops) {
      if (!is_persistent(value.kind)) live_[index(slot_of(value).kind)] -= slot_of(value).bytes;
    }
  }

  static size_t index(MemoryKind kind) { return static_cast<size_t>(kind); }
  const Slot& slot_of(const Value& value) const { return program_.slots[slot_[facts_.values.find(value)]]; }

  const Facts& facts_;
  const Program& program_;
  VerifyReport report_;
  std::vector<int32_t> slot_;  // by value number
  std::array<int64_t, kMemoryKinds> live_{};
};

}  // namespace

VerifyReport report(const Facts& facts) { return MemoryReport(facts).make(); }

}  // namespace furrow::plan::rules
