// Rule: every value has exactly one slot, of its kind and large enough, and two values share one only when
// their lives do not overlap.  A life runs from the instruction that writes to the one that drops, both
// included; only the result of an in-place operation may follow in the instruction that drops the value which
// it replaces.  Flat values that travel together (plan/buckets.h) lie end to end in one slot.
#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "furrow/plan/buckets.h"
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
    check_runs();
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
    if (assignment.offset == offset || may_be_a_neighbour(assignment)) return;
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

  // In memory of its own, beside those of its bucket.
  bool may_be_a_neighbour(const SlotAssignment& assignment) const {
    const Value& value = assignment.value;
    const int32_t writer = facts_.writer[facts_.values.find(value)];
    const bool flat = is_gradient(value.kind) || value.kind == ValueKind::kGathered;
    if (writer < 0 || !flat) return false;
    const Placement& place = facts_.program.placement;
    const Value* source = in_place_source(facts_.program.instructions[writer], value);
    const bool own = source == nullptr || homes_[facts_.values.find(*source)]->slot != assignment.slot;
    return own && place.bucket_end(value.unit) - place.bucket_of(value.unit) > 1;
  }

  // What a collective of several units reads, and what it writes, lies end to end.
  void check_runs() const {
    const std::vector<Instruction>& list = facts_.program.instructions;
    const std::vector<int32_t> ends = run_ends(bytes_.flat, facts_.program);
    size_t begin = 0;  // of the run
    for (size_t i = 1; i < list.size(); ++i) {
      if (ends[i - 1] != ends[i]) begin = i;
      if (begin == i) continue;
      for (size_t n = 0; n < list[i].reads.size(); ++n)
        check_neighbour(i, begin, [n](const Instruction& each) { return each.reads[n]; });
      for (size_t n = 0; n < list[i].writes.size(); ++n)
        check_neighbour(i, begin, [n](const Instruction& each) { return each.writes[n]; });
    }
  }

  // That of instruction i, behind the last one of its run that is not empty.
  template <class Pick>
  void check_neighbour(size_t i, size_t begin, const Pick& pick) const {
    const std::vector<Instruction>& list = facts_.program.instructions;
    const Value value = pick(list[i]);
    if (value.kind == ValueKind::kParams || value_bytes(bytes_, value) == 0) return;
    for (size_t before = i; before-- > begin;) {
      const Value last = pick(list[before]);
      const int64_t bytes = value_bytes(bytes_, last);
      if (bytes == 0) continue;
      const SlotAssignment &a = *homes_[facts_.values.find(last)], &b = *homes_[facts_.values.find(value)];
      if (a.slot == b.slot && a.offset + bytes == b.offset) return;
      facts_.fail(i, fmt::format("{} does not lie right behind {}, with which it travels", to_string(value),
                                 to_string(last)));
    }
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
      check_slot(slot, lives[slot]);
    }
  }

  // Of a slot, in the order of their begins.
  void check_slot(size_t slot, const std::vector<Life>& lives) const {
    std::vector<const Life*> before;  // that may live on
    for (const Life& life : lives) {
      for (const Life* other : before) {
        if (overlap(*other, life)) check_pair(slot, *other, life);
      }
      std::erase_if(before,
                    [&](const Life* other) { return other->end < life.begin || overlap(*other, life); });
      before.push_back(&life);
    }
  }

  // Of flat buffers in bytes; what has no place in a slot has all of it.
  bool overlap(const Life& a, const Life& b) const {
    const Value &first = facts_.values.value(a.value), &second = facts_.values.value(b.value);
    const bool flat = is_gradient(first.kind) || first.kind == ValueKind::kGathered;
    if (!flat || slot_class(first.kind) != slot_class(second.kind)) return true;
    const int64_t from = homes_[a.value]->offset, begin = homes_[b.value]->offset;
    return from < begin + value_bytes(bytes_, second) && begin < from + value_bytes(bytes_, first);
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
