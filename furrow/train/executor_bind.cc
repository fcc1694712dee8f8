// Looks up, once per program, where the values of each instruction lie.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/plan/share.h"
#include "furrow/plan/value_bytes.h"
#include "furrow/train/executor_state_torch.h"

namespace furrow::train {
namespace {

using plan::GroupAxis;
using plan::Op;
using plan::ValueKind;

bool holds_gradient(ValueKind kind) { return plan::is_gradient(kind) || kind == ValueKind::kHosted; }

using plan::buffer_of;

class Binder {
 public:
  Binder(const plan::Program& program, const ModelState& model, const plan::Instruction& instruction)
      : program_(program), flat_(model.flat()), spec_(model.spec()), instruction_(instruction) {
    bound_.instruction = &instruction;
    bound_.handler = handler_of(instruction.op);
    bound_.index = static_cast<int>(&instruction - program.instructions.data());
    bound_.read.fill(-1);
    bound_.write.fill(-1);
  }

  BoundInstruction bind() {
    for (const plan::Value& value : instruction_.reads) add(value, &bound_.read, &bound_.gradient_reads);
    for (const plan::Value& value : instruction_.writes) add(value, &bound_.write, &bound_.gradient_writes);
    find_drops();
    if (instruction_.op == Op::kBackwardWeight) {
      find_targets();
      find_gaps();
    }
    if (instruction_.op == Op::kMeasure) keep_own_parts();
    if (instruction_.peer >= 0) return find_transfer();
    if (instruction_.op == Op::kStep || instruction_.op == Op::kSnapshot ||
        (instruction_.op == Op::kSwapAverage && bound_.writes(plan::ValueKind::kParams) >= 0))
      bound_.slice = slice_of(instruction_.writes.front());
    if (bound_.communicates()) find_members();
    return std::move(bound_);
  }

 private:
  plan::Slice slice_of(const plan::Value& value) const {
    return plan::part_slice(flat_, program_.placement, buffer_of(value), value.part);
  }

  FlatOperand operand(const plan::Value& value) const {
    const plan::SlotAssignment& home = program_.home_of(value);
    const plan::Slice slice = slice_of(value);
    FlatOperand operand{home.slot, 0, slice.size(), slice, plan::element_type(flat_, value)};
    operand.begin = home.offset / operand.element_bytes();
    return operand;
  }

  void add(const plan::Value& value, std::array<int, plan::kValueKinds>* slots,
           std::vector<FlatOperand>* gradients) {
    const int slot = program_.slot_of(value);
    int& first = (*slots)[static_cast<size_t>(value.kind)];
    if (first < 0) first = slot;
    if (holds_gradient(value.kind)) gradients->push_back(operand(value));
    if (value.kind == ValueKind::kGathered) bound_.gathered.emplace_back(value.unit, operand(value));
    if (value.kind == ValueKind::kLoss) {
      bound_.head = value.begin;
      bound_.loss_reads.push_back(slot);
    }
    if (value.kind == ValueKind::kAct && slots == &bound_.read) bound_.act_reads.push_back(slot);
    if (value.kind == ValueKind::kSums || value.kind == ValueKind::kLossScale) bound_.phase = value.index / 2;
    if (value.kind == ValueKind::kScale) bound_.phase = value.index;
    if (value.kind == ValueKind::kBnStats && slots == &bound_.read) bound_.statistic_reads.push_back(slot);
    if (std::ranges::find(bound_.touches, slot) == bound_.touches.end()) bound_.touches.push_back(slot);
  }

  void find_drops() {
    for (const plan::Value& value : instruction_.drops) {
      const int slot = program_.slot_of(value);
      const bool rewritten = std::ranges::any_of(
          instruction_.writes, [&](const plan::Value& v) { return program_.slot_of(v) == slot; });
      if (!rewritten) bound_.drops.push_back(slot);
    }
  }

  // Where the gradient of each parameter goes: the unit's own flat buffer, or the buffer of the use it ties.
  void find_targets() {
    bound_.targets.assign(spec_.units[instruction_.unit].parameters.size(), {});
    for (const plan::Value& value : instruction_.writes) {
      const FlatOperand to = operand(value);
      if (value.unit == instruction_.unit && value.index == 0) {
        for (const plan::FlatSpan& span : flat_.units[value.unit].spans) {
          if (!spec_.units[value.unit].parameters[span.parameter].rule.frozen)
            bound_.targets[span.parameter] = {to.slot, to.begin + span.offset};
        }
      }
      for (const plan::TiedUse& use : flat_.tied) {
        if (use.use > 0 && use.user_unit == instruction_.unit && use.owner_unit == value.unit &&
            use.use == value.index)
          bound_.targets[use.user_parameter] = {to.slot, to.begin};
      }
    }
    for (size_t i = 0; i < bound_.targets.size(); ++i) {
      const plan::Parameter& parameter = spec_.units[instruction_.unit].parameters[i];
      const bool frozen = parameter.rule.frozen || parameter.borrowed;
      FURROW_CHECK(frozen || bound_.targets[i].slot >= 0, "a parameter's gradient has no target");
    }
  }

  // The padding of every gradient that the instruction writes.
  void find_gaps() {
    const plan::Unit& unit = spec_.units[instruction_.unit];
    for (const FlatOperand& to : bound_.gradient_writes) {
      std::vector<std::pair<int64_t, int64_t>> used;  // offset, size
      for (size_t i = 0; i < bound_.targets.size(); ++i) {
        if (bound_.targets[i].slot == to.slot)
          used.emplace_back(bound_.targets[i].offset, unit.parameters[i].size());
      }
      std::ranges::sort(used);
      used.emplace_back(to.begin + to.size, 0);
      int64_t end = to.begin;
      for (const auto& [offset, size] : used) {
        if (offset > end) bound_.gaps.push_back({to.slot, end, offset - end});
        end = offset + size;
      }
    }
  }

  // A rank measures what no other rank does.
  void keep_own_parts() {
    size_t next = 0;
    for (const plan::Value& value : instruction_.reads) {
      if (!holds_gradient(value.kind)) continue;
      FlatOperand& from = bound_.gradient_reads[next++];
      const plan::Slice own =
          plan::part_slice(flat_, program_.placement, buffer_of(value), program_.placement.own_part());
      from.begin += own.begin - from.slice.begin;
      from.size = own.size();
      from.slice = own;
      bound_.uncounted.push_back(uncounted_in(value.unit, own));
    }
  }

  // Parameters that every rank of the tensor axis has, within the slice: the first rank counts them.
  std::vector<plan::Slice> uncounted_in(int unit, const plan::Slice& slice) const {
    std::vector<plan::Slice> runs;
    if (program_.placement.counts_replicated()) return runs;
    for (const plan::FlatSpan& span : flat_.units[unit].spans) {
      if (spec_.units[unit].parameters[span.parameter].tensor_axis >= 0) continue;
      const plan::Slice run{std::max(span.offset, slice.begin) - slice.begin,
                            std::min(span.offset + span.size, slice.end) - slice.begin};
      if (run.size() > 0) runs.push_back(run);
    }
    return runs;
  }

  BoundInstruction find_transfer() {
    const plan::Value& value =
        instruction_.op == Op::kSend ? instruction_.reads.front() : instruction_.writes.front();
    bound_.label = fmt::format("{}", plan::to_string(value));
    const bool flat = holds_gradient(value.kind) || value.kind == ValueKind::kParams;
    if (flat) bound_.flat = operand(value);
    return std::move(bound_);
  }

  void find_members() {
    bound_.label = std::string(plan::op_info(instruction_.op).name);
    if (instruction_.op == Op::kReduceScalar) return;
    if (instruction_.op == Op::kGatherStats) return find_arrivals();
    bound_.label += " " + program_.units[instruction_.unit];
    if (instruction_.writes.empty()) return;
    const plan::FlatBuffer buffer = buffer_of(instruction_);
    const plan::Value& own =
        instruction_.reads.empty() ? instruction_.writes.front() : instruction_.reads.front();
    bound_.slice = plan::part_slice(flat_, program_.placement, buffer, own.part);
    bound_.member_slices = plan::member_slices(flat_, program_.placement, buffer, instruction_.axis);
    for (const plan::Slice& slice : bound_.member_slices) bound_.counts.push_back(slice.size());
    const int unit = instruction_.unit;
    bound_.own_params = {{unit, bound_.slice}};
    bound_.all_params = {{unit, {0, flat_.units[unit].trained_elements}}};
    if (instruction_.op == Op::kGatherParams) bound_.flat = bound_.gathered.front().second;
    if (instruction_.op != Op::kReduceGrads) return;
    bound_.exchange = std::make_shared<plan::Exchange>(plan::exchange_of(program_, instruction_));
    const auto k = static_cast<int32_t>(program_.microbatch_sizes.size());
    const plan::GradientTree tree(program_.placement, k);
    if (!bound_.exchange->plain) bound_.sums = plan::exchange_sums(*bound_.exchange, tree);
  }

  // Members send in rank order; each of them by microbatch, then by unit.
  void find_arrivals() {
    std::vector<plan::Value> values = instruction_.reads;
    values.insert(values.end(), instruction_.writes.begin(), instruction_.writes.end());
    std::ranges::sort(values, [](const plan::Value& a, const plan::Value& b) {
      return std::pair(a.index, a.unit) < std::pair(b.index, b.unit);
    });
    const auto k = static_cast<int32_t>(program_.microbatch_sizes.size());
    for (const int rank : plan::group_ranks(program_.placement, instruction_.axis)) {
      const plan::Placement member = plan::placement_of(program_.placement, rank);
      int64_t count = 0;
      for (const plan::Value& value : values) {
        if (!plan::takes(member, k, value.index)) continue;
        const int64_t elements = flat_.units[value.unit].statistic_elements;
        const bool own = rank == program_.placement.rank;
        bound_.arrivals.push_back({own ? -1 : program_.slot_of(value), elements});
        count += elements;
      }
      bound_.counts.push_back(count);
    }
  }

  const plan::Program& program_;
  const plan::FlatLayout& flat_;
  const plan::ModelSpec& spec_;
  const plan::Instruction& instruction_;
  BoundInstruction bound_;
};

}  // namespace

BoundInstruction bind(const plan::Program& program, const ModelState& model,
                      const plan::Instruction& instruction) {
  return Binder(program, model, instruction).bind();
}

}  // namespace furrow::train
