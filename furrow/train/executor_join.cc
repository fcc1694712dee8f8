// Instructions that are carried out as one: runs of a bucket, and a reduction with the gather of what it
// makes.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/plan/buckets.h"
#include "furrow/plan/value_bytes.h"
#include "furrow/train/executor_state_torch.h"

namespace furrow::train {
namespace {

using plan::Op;

// A run of instructions on neighbours of a bucket.
class Run {
 public:
  Run(const plan::FlatLayout& flat, std::span<BoundInstruction> bound) : bound_(bound), last_(bound.back()) {
    for (const BoundInstruction& each : bound) {
      const plan::UnitLayout& unit = flat.units[each.unit()];
      const bool whole = each.instruction->op == Op::kGatherParams;
      sizes_.push_back(whole ? unit.elements : unit.trained_elements);
    }
  }

  void join() {
    const std::string name = last_.label, first = bound_.front().label;
    last_.label = first + ".." + name.substr(name.find(' ') + 1);
    join_operands(&BoundInstruction::gradient_reads);
    join_operands(&BoundInstruction::gradient_writes);
    if (last_.instruction->op == Op::kGatherParams)
      last_.flat = end_to_end([](const BoundInstruction& each) { return each.flat; });
    join_members();
    for (BoundInstruction& each : bound_.first(bound_.size() - 1)) {
      each.started_after = true;
      each.handler = [](ExecutorState&, const BoundInstruction&) {};
      for (const int slot : each.touches) {
        if (std::ranges::find(last_.touches, slot) == last_.touches.end()) last_.touches.push_back(slot);
      }
      append(each.own_params, each.all_params);
    }
    std::ranges::rotate(last_.own_params, last_.own_params.begin() + 1);
    std::ranges::rotate(last_.all_params, last_.all_params.begin() + 1);
  }

 private:
  void append(const std::vector<UnitSlice>& own, const std::vector<UnitSlice>& all) {
    last_.own_params.insert(last_.own_params.end(), own.begin(), own.end());
    last_.all_params.insert(last_.all_params.end(), all.begin(), all.end());
  }

  void join_operands(std::vector<FlatOperand> BoundInstruction::* operands) {
    for (size_t n = 0; n < (last_.*operands).size(); ++n)
      (last_.*operands)[n] = end_to_end([&](const BoundInstruction& each) { return (each.*operands)[n]; });
  }

  // Of one operand of each.
  template <class Pick>
  FlatOperand end_to_end(const Pick& pick) const {
    FlatOperand all = pick(bound_.front());
    std::vector<plan::Slice> slices = {all.slice};
    for (const BoundInstruction& each : bound_.subspan(1)) {
      const FlatOperand next = pick(each);
      slices.push_back(next.slice);
      if (next.size == 0) continue;
      if (all.size == 0) all = {next.slot, next.begin, 0, {}, next.type};
      FURROW_CHECK(next.slot == all.slot && next.begin == all.begin + all.size,
                   "what a bucket's collective moves does not lie end to end");
      all.size += next.size;
    }
    all.slice = plan::end_to_end(slices, sizes_);
    return all;
  }

  void join_members() {
    for (size_t member = 0; member < last_.member_slices.size(); ++member) {
      std::vector<plan::Slice> slices;
      for (const BoundInstruction& each : bound_) slices.push_back(each.member_slices[member]);
      joined_.push_back(plan::end_to_end(slices, sizes_));
    }
    last_.member_slices = std::exchange(joined_, {});
    for (size_t member = 0; member < last_.member_slices.size(); ++member)
      last_.counts[member] = last_.member_slices[member].size();
  }

  std::span<BoundInstruction> bound_;
  BoundInstruction& last_;
  std::vector<int64_t> sizes_;  // elements of the buffers, end to end
  std::vector<plan::Slice> joined_;
};

}  // namespace

void join_runs(const plan::Program& program, const plan::FlatLayout& flat,
               std::span<BoundInstruction> bound) {
  const std::vector<int32_t> ends = plan::run_ends(flat, program);
  for (size_t i = 0; i < bound.size(); i = static_cast<size_t>(ends[i]) + 1) {
    const size_t count = static_cast<size_t>(ends[i]) - i + 1;
    if (count > 1) Run(flat, bound.subspan(i, count)).join();
  }
}

void join_gathers(std::span<BoundInstruction> bound) {
  const auto same = [](const FlatOperand& a, const FlatOperand& b) {
    return a.slot == b.slot && a.begin == b.begin && a.size == b.size;
  };
  for (size_t i = 0; i + 1 < bound.size(); ++i) {
    BoundInstruction& reduce = bound[i];
    if (reduce.instruction->op != Op::kReduceGrads || reduce.started_after) continue;
    size_t next = i + 1;
    while (next < bound.size() && bound[next].instruction->op == Op::kGatherGrads &&
           bound[next].started_after)
      ++next;
    if (next == bound.size() || bound[next].instruction->op != Op::kGatherGrads) continue;
    BoundInstruction& gather = bound[next];
    if (reduce.exchange == nullptr || !reduce.exchange->plain ||
        reduce.instruction->axis != gather.instruction->axis)
      continue;
    if (!same(gather.gradient_reads[0], reduce.gradient_writes[0]) ||
        !same(gather.gradient_writes[0], reduce.gradient_reads[0]))
      continue;
    reduce.gather = &gather;
    gather.started_before = true;
  }
}

}  // namespace furrow::train
