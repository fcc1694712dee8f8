// Rule: every value has exactly one slot, of its kind and large enough, and two values share one only when
// their lives do not overlap.  A life runs from the instruction that writes to the one that drops, both
// included; only the result of an in-place operation may follow in the instruction that drops the value which
// it replaces.
#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "furrow/plan/value_bytes.h"
#include "furrow/plan/verify_rules.h"

namespace furrow::plan::rules {
namespace {

class SlotRule {
 public:
  explicit SlotRule(const Facts& facts)
      : facts_(facts),
        bytes_{facts.spec, facts.model.flat, facts.program.microbatch_sizes, facts.program.placement,
               facts.program.states} {}

  void check() {
    homes_.assign(facts_.values.size(), nullptr);
    const auto& assignments = facts_.program.assignments;
    for (size_t a = 0; a < assignments.size(); ++a) {
      const Value& value = assignments[a].value;
      const int32_t v = facts_.values.find(value);
      if (v < 0) fail_at_end(fmt::format("{} has a slot, but is no value of the program", to_string(value)));
      if (a > 0 && !(assignments[a - 1].value < value)) {
        fail_at_end(fmt::format("assignments are not sorted, or {} has two", to_string(value)));
      }
      homes_[v] = &assignments[a];
    }
    for (int32_t v = 0; v < facts_.values.size(); ++v) {
      if (homes_[v] == nullptr)
        facts_.fail(place(v), fmt::format("{} has no slot", to_string(facts_.values.value(v))));
    }
    for (const SlotAssignment& assignment : assignments) check_fit(assignment);
    check_lives();
  }

 private:
  struct Life {
    int32_t value;
    int32_t begin;
    int32_t end;
  };

  [[noreturn]] void fail_at_end(const std::string& message) const {
    facts_.fail(facts_.program.instructions.size(), message);
  }

  size_t place(int32_t v) const {
    const int32_t writer = facts_.writer[v];
    return writer < 0 ? facts_.program.instructions.size() : static_cast<size_t>(writer);
  }

  void check_fit(const SlotAssignment& assignment) const {
    const Value& value = assignment.value;
    const size_t writer = place(facts_.values.find(value));
    if (assignment.slot < 0 || static_cast<size_t>(assignment.slot) >= facts_.program.slots.size()) {
      facts_.fail(writer,
                  fmt::format("{} is in slot {}, which does not exist", to_string(value), assignment.slot));
    }
    const Slot& slot = facts_.program.slots[assignment.slot];
    if (slot.kind != memory_kind(value.kind)) {
      facts_.fail(writer, fmt::format("{} is in slot {} for {}", to_string(value), assignment.slot,
                                      to_string(slot.kind)));
    }
    const int64_t need = value_bytes(bytes_, value);
    if (assignment.offset < 0 || slot.bytes - assignment.offset < need) {
      facts_.fail(writer, fmt::format("{} needs {} bytes, its slot {} has {}", to_string(value), need,
                                      assignment.slot, slot.bytes - assignment.offset));
    }
    const int64_t offset = due_offset(assignment);
    if (assignment.offset == offset) return;
    facts_.fail(writer, fmt::format("{} lies at {} of slot {}: it must lie at {}", to_string(value),
                                    assignment.offset, assignment.slot, offset));
  }

  // Where a value lies in its slot: at 0, or, as a part of what it replaces or the whole around it, in its
  // place.
  int64_t due_offset(const SlotAssignment& assignment) const {
    const int32_t writer = facts_.writer[facts_.values.find(assignment.value)];
    if (writer < 0) return 0;
    const Value* source = in_place_source(facts_.program.instructions[writer], assignment.value);
    if (source == nullptr) return 0;
    const SlotAssignment& home = *homes_[facts_.values.find(*source)];
    if (home.slot != assignment.slot) return 0;
    const int64_t elements = value_slice(bytes_, assignment.value).begin - value_slice(bytes_, *source).begin;
    return home.offset + elements * element_bytes(bytes_.flat, assignment.value);
  }

  void check_lives() const {
    std::vector<std::vector<Life>> lives(facts_.program.slots.size());
    for (const SlotAssignment& assignment : facts_.program.assignments) {
      const int32_t v = facts_.values.find(assignment.value);
      const int32_t dropped = facts_.dropped[v];
      const int32_t end = dropped == kNever ? std::numeric_limits<int32_t>::max() : dropped;
      lives[assignment.slot].push_back({v, facts_.writer[v], end});
    }
    for (size_t slot = 0; slot < lives.size(); ++slot) {
      std::sort(lives[slot].begin(), lives[slot].end(), [](const Life& a, const Life& b) {
        return a.begin != b.begin ? a.begin < b.begin : a.value < b.value;
      });
      for (size_t i = 1; i < lives[slot].size(); ++i) check_pair(slot, lives[slot][i - 1], lives[slot][i]);
    }
  }

  void check_pair(size_t slot, const Life& first, const Life& second) const {
    const Value& before = facts_.values.value(first.value);
    const Value& after = facts_.values.value(second.value);
    if (slot_class(before.kind) != slot_class(after.kind)) {
      facts_.fail(place(second.value), fmt::format("{} follows {} in slot {}: they are of different kinds",
                                                   to_string(after), to_string(before), slot));
    }
    if (second.begin > first.end || replaces(first, second)) return;
    facts_.fail(place(second.value), fmt::format("{} is written into slot {} while {} lives there",
                                                 to_string(after), slot, to_string(before)));
  }

  bool replaces(const Life& first, const Life& second) const {
    if (second.begin != first.end || second.begin < 0) return false;
    const Instruction& instruction = facts_.program.instructions[second.begin];
    const Value* source = in_place_source(instruction, facts_.values.value(second.value));
    return source != nullptr && *source == facts_.values.value(first.value);
  }

  const Facts& facts_;
  const ByteContext bytes_;                   // how many copies of state, it cannot know: at least one
  std::vector<const SlotAssignment*> homes_;  // by value number
};

}  // namespace

void check_slots(const Facts& facts) {
  if (facts.finished()) return SlotRule(facts).check();
  if (!facts.program.assignments.empty()) {
    facts.fail(facts.program.instructions.size(), "values are assigned to slots, but there are no slots");
  }
}

}  // namespace furrow::plan::rules
