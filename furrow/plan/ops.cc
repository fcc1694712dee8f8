// The one table of operations: names, operands, and which value may take over the slot of another.
#include <algorithm>
#include <array>

#include "furrow/base/error.h"
#include "furrow/plan/program.h"

namespace furrow::plan {
namespace {

template <class... Kinds>
constexpr KindSet set_of(Kinds... kinds) {
  return (KindSet{0} | ... | kind_bit(kinds));
}

using enum ValueKind;

constexpr std::array<OpInfo, 28> kOps = {{
    {Op::kLoad, "load", false, true, false, false, set_of(), set_of(kBatch)},
    {Op::kForward, "forward", true, true, false, false, set_of(kBatch, kAct, kParams, kGathered, kStats),
     set_of(kAct, kSaved, kBnStats)},
    {Op::kRecompute, "recompute", true, true, false, false, set_of(kBatch, kAct, kParams, kGathered),
     set_of(kSaved)},
    {Op::kLoss, "loss", false, true, false, false, set_of(kAct, kBatch, kLossScale), set_of(kGrad, kLoss)},
    {Op::kEvaluate, "evaluate", false, true, false, false, set_of(kAct, kBatch), set_of(kLoss)},
    {Op::kBackwardInput, "backward_input", true, true, false, false,
     set_of(kGrad, kSaved, kBatch, kAct, kParams, kGathered), set_of(kGrad, kDeferred)},
    {Op::kBackwardWeight, "backward_weight", true, true, false, false, set_of(kDeferred, kBatch, kAct),
     set_of(kGradient, kLeaf)},
    {Op::kAdd, "add", true, false, false, false, set_of(kGradient), set_of(kGradient)},
    {Op::kReduceGrads, "reduce_grads", true, false, true, false, set_of(kGradient), set_of(kGradient)},
    {Op::kAddTied, "add_tied", true, false, false, false, set_of(kGradient), set_of(kTotal)},
    {Op::kGatherGrads, "gather_grads", true, false, true, false, set_of(kGradient, kTotal),
     set_of(kGradient, kTotal)},
    {Op::kGatherParams, "gather_params", true, false, true, false, set_of(kParams), set_of(kGathered)},
    {Op::kMeasure, "measure", false, false, false, false, set_of(kGradient, kTotal, kLoss), set_of(kSums)},
    {Op::kReduceScalar, "reduce_scalar", false, false, true, false, set_of(kSums), set_of(kSums)},
    {Op::kGatherStats, "gather_stats", false, false, true, false, set_of(kBnStats), set_of(kBnStats)},
    {Op::kClip, "clip", false, false, false, false, set_of(kSums, kLossScale), set_of(kScale)},
    {Op::kUpdateScale, "update_scale", false, false, false, false, set_of(kScale, kLossScale),
     set_of(kLossScale)},
    {Op::kStep, "step", true, false, false, false,
     set_of(kParams, kState, kGradient, kTotal, kWide, kHosted, kScale), set_of(kParams, kState, kHosted)},
    {Op::kGatherUpdated, "gather_updated", true, false, true, false, set_of(kParams), set_of(kParams)},
    {Op::kFoldStats, "fold_stats", true, false, false, false, set_of(kStats, kBnStats, kScale),
     set_of(kStats)},
    {Op::kSnapshot, "snapshot", true, false, false, false, set_of(kParams, kState, kStats),
     set_of(kSnapshot)},
    {Op::kSend, "send", true, false, true, true, set_of(kAct, kGrad, kGradient, kParams), set_of()},
    {Op::kRecv, "recv", true, false, true, true, set_of(kParams), set_of(kAct, kGrad, kGradient, kParams)},
    {Op::kSwapAverage, "swap_average", true, false, false, false, set_of(kParams, kState, kStats),
     set_of(kParams, kState, kStats)},
    {Op::kCopyDown, "copy_down", true, false, false, false, set_of(kGradient, kTotal, kWide),
     set_of(kHosted)},
    {Op::kCopyUp, "copy_up", true, false, false, false, set_of(kParams, kHosted), set_of(kParams)},
    {Op::kRound, "round", true, true, false, false, set_of(kLeaf), set_of(kGradient)},
    {Op::kWiden, "widen", true, false, false, false, set_of(kGradient, kTotal), set_of(kWide)},
}};

constexpr bool rows_are_in_order() {
  for (size_t i = 0; i < kOps.size(); ++i) {
    if (static_cast<size_t>(kOps[i].op) != i) return false;
  }
  return true;
}
static_assert(rows_are_in_order(), "row i describes operation i");

const Value* first_read(const Instruction& instruction, ValueKind kind) {
  for (const Value& value : instruction.reads) {
    if (value.kind == kind) return &value;
  }
  return nullptr;
}

// The i-th value read, for the i-th one written.
const Value* same_place(const Instruction& instruction, const Value& written) {
  const auto at = std::find(instruction.writes.begin(), instruction.writes.end(), written);
  const auto index = static_cast<size_t>(at - instruction.writes.begin());
  return index < instruction.reads.size() ? &instruction.reads[index] : nullptr;
}

}  // namespace

const OpInfo& op_info(Op op) {
  const auto index = static_cast<size_t>(op);
  FURROW_CHECK(index < kOps.size(), "operation outside the table");
  return kOps[index];
}

const OpInfo* find_op(std::string_view name) {
  for (const OpInfo& info : kOps) {
    if (info.name == name) return &info;
  }
  return nullptr;
}

std::vector<Op> all_ops() {
  std::vector<Op> ops;
  for (const OpInfo& info : kOps) ops.push_back(info.op);
  return ops;
}

int32_t transfer_microbatch(const Value& value) {
  return value.kind == kAct || value.kind == kGrad ? value.index : -1;
}

const Value* in_place_source(const Instruction& instruction, const Value& written) {
  switch (instruction.op) {
    case Op::kAdd:
    case Op::kAddTied:
      return instruction.reads.empty() ? nullptr : &instruction.reads[0];
    case Op::kGatherGrads:
    case Op::kGatherUpdated:
    case Op::kStep:
    case Op::kSwapAverage:
    case Op::kCopyUp:
    case Op::kRecv:
    case Op::kFoldStats:
    case Op::kUpdateScale:
      return first_read(instruction, written.kind);
    case Op::kReduceGrads:
      return same_place(instruction, written);
    default:
      return nullptr;
  }
}

}  // namespace furrow::plan
