#include "furrow/plan/live_memory.h"

#include <algorithm>
#include <utility>

#include "furrow/plan/value_bytes.h"
#include "furrow/plan/workspace.h"

namespace furrow::plan {
namespace {

size_t index(MemoryKind kind) { return static_cast<size_t>(kind); }

}  // namespace

LiveMemory::LiveMemory(const Program& program, const ModelSpec& spec, SlotOf slot_of)
    : program_(program),
      spec_(spec),
      slot_of_(std::move(slot_of)),
      held_(spec.units.size() * program.microbatch_sizes.size()) {}

MemoryByKind LiveMemory::persistent() const {
  MemoryByKind bytes{};
  std::vector<bool> counted(program_.slots.size(), false);
  for (const SlotAssignment& assignment : program_.assignments) {
    if (!is_persistent(assignment.value.kind) || counted[assignment.slot]) continue;
    counted[assignment.slot] = true;
    bytes[index(program_.slots[assignment.slot].kind)] += program_.slots[assignment.slot].bytes;
  }
  bytes[index(MemoryKind::kOther)] += exchange_staging_bytes(program_, spec_);
  return bytes;
}

LiveMemory::Change LiveMemory::apply(const Instruction& instruction) {
  Change change;
  const bool defers = std::ranges::any_of(
      instruction.writes, [](const Value& value) { return value.kind == ValueKind::kDeferred; });
  for (const Value& value : instruction.writes) {
    if (!is_persistent(value.kind))
      change.written[index(slot_of_(value).kind)] += written_bytes(value, instruction.op);
  }
  for (const Value& value : instruction.drops) {
    if (!is_persistent(value.kind))
      change.dropped[index(slot_of_(value).kind)] += dropped_bytes(value, defers);
  }
  const int64_t scratch = scratch_bytes(instruction);
  // What forms gradients of weights counts as workspace.
  const size_t kind =
      index(instruction.op == Op::kBackwardWeight ? MemoryKind::kOther : MemoryKind::kActivations);
  change.written[kind] += scratch;
  change.dropped[kind] += scratch;
  return change;
}

int64_t LiveMemory::scratch_bytes(const Instruction& instruction) const {
  const auto bytes = [&](const Scratch& scratch) {
    return scratch.bytes(program_.microbatch_sizes[instruction.microbatch]);
  };
  switch (instruction.op) {
    case Op::kForward:
    case Op::kRecompute:
      return bytes(spec_.units[instruction.unit].forward_scratch);
    case Op::kBackwardInput:
      return bytes(spec_.units[instruction.unit].backward_scratch);
    case Op::kBackwardWeight:
      return bytes(spec_.units[instruction.unit].weight_scratch);
    case Op::kLoss:
      return bytes(spec_.units[instruction.reads.front().unit].loss_scratch);
    default:
      return 0;
  }
}

LiveMemory::Held& LiveMemory::held(const Value& value) {
  return held_[static_cast<size_t>(value.unit) * program_.microbatch_sizes.size() +
               static_cast<size_t>(value.index)];
}

int64_t LiveMemory::samples(const Value& value) const { return program_.microbatch_sizes[value.index]; }

int64_t LiveMemory::output_bytes(const Value& value) const {
  return spec_.units[value.unit].output.bytes_per_sample() * samples(value);
}

int64_t LiveMemory::written_bytes(const Value& value, Op op) {
  const int64_t bytes = slot_of_(value).bytes;
  switch (value.kind) {
    case ValueKind::kAct:
      held(value).act = true;
      return bytes;
    case ValueKind::kSaved:
      held(value).saved = true;
      held(value).again = op == Op::kRecompute;
      return bytes + (held(value).again ? output_bytes(value) : 0);
    case ValueKind::kDeferred: {
      const Unit& unit = spec_.units[value.unit];
      const int64_t kept = (unit.kept_saved_bytes + unit.kept_grad_bytes) * samples(value);
      return std::max<int64_t>(0, bytes - kept);
    }
    default:
      return bytes;
  }
}

int64_t LiveMemory::dropped_bytes(const Value& value, bool defers) {
  const int64_t bytes = slot_of_(value).bytes;
  switch (value.kind) {
    case ValueKind::kAct:
      held(value).act = false;
      return held(value).saved && !held(value).again ? 0 : bytes;
    case ValueKind::kSaved: {
      const Held held = std::exchange(this->held(value), Held{this->held(value).act, false, false});
      const int64_t output = held.again || !held.act ? output_bytes(value) : 0;
      const int64_t kept = defers ? spec_.units[value.unit].kept_saved_bytes * samples(value) : 0;
      return bytes + output - kept;
    }
    case ValueKind::kGrad:
      return bytes - (defers ? spec_.units[value.unit].kept_grad_bytes * samples(value) : 0);
    default:
      return bytes;
  }
}

}  // namespace furrow::plan
