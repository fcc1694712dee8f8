// What becomes of gradients between backward and the step: sums, norms, the verdict.
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>
#include <vector>

#include "furrow/train/executor_state_torch.h"

namespace furrow::train {
namespace {

using plan::ValueKind;

void add(ExecutorState& state, const BoundInstruction& bound) {
  state.math->add(state.numbers(bound.gradient_reads[0]), state.numbers(bound.gradient_reads[1]),
                  state.numbers(bound.gradient_writes[0]));
}

// round, widen: the same numbers in the other type.
void convert(ExecutorState& state, const BoundInstruction& bound) {
  state.math->copy(state.numbers(bound.gradient_reads[0]), state.numbers(bound.gradient_writes[0]));
}

// total(u) = the unit's own gradient plus, in use order, the span of each tied use; of all, the part that is
// here.
void add_tied(ExecutorState& state, const BoundInstruction& bound) {
  const FlatOperand& to = bound.gradient_writes[0];
  const tensor::Numbers total = state.numbers(to);
  const tensor::Numbers own = state.numbers(bound.gradient_reads[0]);
  if (own.data != total.data) state.math->copy(own, total);
  size_t next = 1;
  for (const plan::TiedUse& use : state.model.flat().tied) {
    if (use.owner_unit != bound.unit() || use.use == 0) continue;
    const FlatOperand& more = bound.gradient_reads[next++];
    if (more.size == 0) continue;
    const tensor::Numbers span = total.part(use.owner_offset + more.slice.begin - to.slice.begin, more.size);
    state.math->add(span, state.numbers(more), span);
  }
}

// What this rank counts of gradients, as runs of whole blocks of the grid: views, but copies of blocks that
// hold something that another rank counts, with zeros in its place.
class CountedBlocks {
 public:
  explicit CountedBlocks(const ExecutorState& state) : state_(state) {}

  void add(size_t gradient, const tensor::Numbers& values, const std::vector<plan::Slice>& uncounted) {
    int64_t begin = 0;  // of blocks that are counted whole
    for (size_t next = 0; next < uncounted.size();) {
      const int64_t from = uncounted[next].begin / plan::kGrid * plan::kGrid;
      add_view(gradient, values.part(begin, std::max<int64_t>(0, from - begin)));
      begin = from;
      // The blocks that this run touches, one at a time: the last may hold the next run too.
      while (next < uncounted.size() && uncounted[next].begin < begin + plan::kGrid) {
        const int64_t end = std::min(begin + plan::kGrid, values.size);
        const std::span<float> copy = copied(gradient, values.part(begin, end - begin));
        for (size_t i = next; i < uncounted.size() && uncounted[i].begin < end; ++i) {
          const int64_t first = std::max(uncounted[i].begin, begin), last = std::min(uncounted[i].end, end);
          state_.math->zero(
              copy.subspan(static_cast<size_t>(first - begin), static_cast<size_t>(last - first)));
        }
        while (next < uncounted.size() && uncounted[next].end <= end) ++next;
        begin = end;
      }
    }
    add_view(gradient, values.part(begin, values.size - begin));
  }

  // All of them together: a device is waited for once.
  std::vector<ExactSum> squares(size_t gradients) const {
    std::vector<ExactSum> sums(gradients);
    const std::vector<ExactSum> of_runs = state_.math->sums_of_squares(runs_);
    for (size_t i = 0; i < of_runs.size(); ++i) sums[of_[i]].add(of_runs[i]);
    return sums;
  }

 private:
  void add_view(size_t gradient, const tensor::Numbers& part) {
    if (part.size == 0) return;
    runs_.push_back(part);
    of_.push_back(gradient);
  }
  std::span<float> copied(size_t gradient, const tensor::Numbers& block) {
    const MemoryScope scope(MemoryKind::kOther);
    copies_.push_back(at::empty({block.size}, at::TensorOptions().dtype(at::kFloat).device(state_.device)));
    const std::span<float> copy(copies_.back().data_ptr<float>(), static_cast<size_t>(block.size));
    state_.math->copy(block, copy);
    add_view(gradient, copy);
    return copy;
  }

  const ExecutorState& state_;
  std::vector<tensor::Numbers> runs_;
  std::vector<size_t> of_;  // by run: its gradient
  std::vector<at::Tensor> copies_;
};

// Of each gradient that is measured, the squares that this rank counts.
std::vector<ExactSum> squares_of(ExecutorState& state, const BoundInstruction& bound) {
  CountedBlocks counted(state);
  for (size_t i = 0; i < bound.gradient_reads.size(); ++i)
    counted.add(i, state.numbers(bound.gradient_reads[i]), bound.uncounted[i]);
  return counted.squares(bound.gradient_reads.size());
}

// Exact sums over what this rank has: losses, the squares of its part of every final gradient, and its votes.
void measure(ExecutorState& state, const BoundInstruction& bound) {
  Sums sums;
  // All ranks of a tensor axis have the same losses.
  for (const int slot : bound.loss_reads) {
    if (state.program.placement.counts_replicated()) sums.loss.add(state.cell<LossSums>(slot));
  }
  const std::vector<ExactSum> squares = squares_of(state, bound);
  size_t next = 0;
  for (const plan::Value& value : bound.instruction->reads) {
    if (value.kind != ValueKind::kGradient && value.kind != ValueKind::kTotal) continue;
    const ExactSum& of_unit = squares[next++];
    if (!std::isfinite(of_unit.value()) && sums.non_finite_unit < 0) sums.non_finite_unit = value.unit;
    sums.squares.add(of_unit);
  }
  if (!state.rank.alone() && state.rank.cancel != nullptr) sums.stop = state.rank.cancel->reason();
  sums.ready = state.inputs->ready ? 1 : 0;
  state.publish(bound, sums);
  state.cells[bound.writes(ValueKind::kSums)] = sums;
}

// Norm of the mean gradient over all units, the clip coefficient of torch.nn.utils.clip_grad_norm_, and the
// verdict.
void clip(ExecutorState& state, const BoundInstruction& bound) {
  const Sums& sums = state.cell<Sums>(bound.reads(ValueKind::kSums));
  Scale scale;
  scale.non_finite_unit = sums.non_finite_unit;
  const double divisor = sums.loss.divisor() * state.loss_factor(bound);
  scale.norm = std::sqrt(sums.squares.value()) / divisor;
  scale.finite = std::isfinite(scale.norm) && std::isfinite(sums.loss.mean());
  const double max_norm = state.inputs->max_norm;
  const double coefficient = max_norm > 0 ? std::min(1.0, max_norm / (scale.norm + 1e-6)) : 1.0;
  scale.factor = coefficient / divisor;
  state.outputs.scale = scale;  // the verdict that what follows is under
  state.outputs.phases[bound.phase].scale = scale;
  state.cells[bound.writes(ValueKind::kScale)] = scale;
  PhaseState& phase = state.outputs.phases[bound.phase].state;
  phase = state.phase_before(bound.phase);
  phase.skipped_steps += scale.finite ? 0 : 1;
}

void update_scale(ExecutorState& state, const BoundInstruction& bound) {
  const bool finite = state.cell<Scale>(bound.reads(ValueKind::kScale)).finite;
  const LossScale before = state.cell<LossScale>(bound.reads(ValueKind::kLossScale));
  const LossScale after = next_loss_scale(before, finite, state.inputs->grad_scaler);
  state.outputs.phases[bound.phase].state.loss_scale = after;
  state.cells[bound.writes(ValueKind::kLossScale)] = after;
}

constexpr HandlerRow kHandlers[] = {
    {plan::Op::kAdd, &add},       {plan::Op::kAddTied, &add_tied},         {plan::Op::kMeasure, &measure},
    {plan::Op::kClip, &clip},     {plan::Op::kUpdateScale, &update_scale}, {plan::Op::kRound, &convert},
    {plan::Op::kWiden, &convert},
};

}  // namespace

std::span<const HandlerRow> gradient_handlers() { return kHandlers; }

}  // namespace furrow::train
