// What becomes of gradients between backward and the step: sums, norms, the verdict.
#include <algorithm>
#include <cmath>
#include <span>
#include <utility>
#include <vector>

#include "furrow/tensor/norm.h"
#include "furrow/train/executor_state_torch.h"

namespace furrow::train {
namespace {

using plan::ValueKind;

void add(ExecutorState& state, const BoundInstruction& bound) {
  state.math->add(state.flat(bound.gradient_reads[0]), state.flat(bound.gradient_reads[1]),
                  state.flat(bound.gradient_writes[0]));
}

// total(u) = the unit's own gradient plus, in use order, the span of each tied use; of all, the part that is
// here.
void add_tied(ExecutorState& state, const BoundInstruction& bound) {
  const FlatOperand& to = bound.gradient_writes[0];
  const std::span<float> total = state.flat(to);
  const std::span<float> own = state.flat(bound.gradient_reads[0]);
  if (own.data() != total.data()) state.math->copy(own, total);
  size_t next = 1;
  for (const plan::TiedUse& use : state.model.flat().tied) {
    if (use.owner_unit != bound.unit() || use.use == 0) continue;
    const FlatOperand& more = bound.gradient_reads[next++];
    if (more.size == 0) continue;
    const std::span<float> span =
        total.subspan(use.owner_offset + more.slice.begin - to.slice.begin, more.size);
    state.math->add(span, state.flat(more), span);
  }
}

// Blocks of the grid: those that hold something that another rank counts, without it.
void add_counted_squares(std::span<const float> values, const std::vector<Extent>& uncounted, int threads,
                         ExactSum* sum) {
  const auto size = static_cast<int64_t>(values.size());
  std::vector<float> block(plan::kGrid);
  int64_t begin = 0;  // of blocks that are counted whole
  const auto count_until = [&](int64_t end) {
    if (end > begin)
      tensor::add_sum_of_squares(values.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)),
                                 threads, sum);
  };
  for (size_t next = 0; next < uncounted.size();) {
    const int64_t from = uncounted[next].begin / plan::kGrid * plan::kGrid;
    count_until(from);
    begin = from;
    // The blocks that this run touches, one at a time: the last may hold the next run too.
    while (next < uncounted.size() && uncounted[next].begin < begin + plan::kGrid) {
      const int64_t end = std::min(begin + plan::kGrid, size);
      std::copy_n(values.begin() + begin, end - begin, block.begin());
      size_t last = next;
      for (; last < uncounted.size() && uncounted[last].begin < end; ++last) {
        const int64_t zero = std::max(uncounted[last].begin, begin) - begin;
        std::fill(block.begin() + zero, block.begin() + (std::min(uncounted[last].end, end) - begin), 0.0F);
      }
      tensor::add_sum_of_squares(std::span(block).first(static_cast<size_t>(end - begin)), threads, sum);
      while (next < last && uncounted[next].end <= end) ++next;
      begin = end;
    }
  }
  count_until(size);
}

// Of each gradient that is measured, the squares that this rank counts.
std::vector<ExactSum> squares_of(ExecutorState& state, const BoundInstruction& bound) {
  const auto whole = [](const std::vector<Extent>& uncounted) { return uncounted.empty(); };
  if (std::ranges::all_of(bound.uncounted, whole)) {
    std::vector<std::span<const float>> parts;
    for (const FlatOperand& gradient : bound.gradient_reads) parts.emplace_back(state.flat(gradient));
    return state.math->sums_of_squares(parts);
  }
  std::vector<ExactSum> sums(bound.gradient_reads.size());
  for (size_t i = 0; i < sums.size(); ++i)
    add_counted_squares(state.flat(bound.gradient_reads[i]), bound.uncounted[i], state.rank.threads,
                        &sums[i]);
  return sums;
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
  const double count = static_cast<double>(std::max<int64_t>(1, sums.loss.count));
  const double divisor = count * state.loss_factor(bound);
  scale.norm = std::sqrt(sums.squares.value()) / divisor;
  scale.finite = std::isfinite(scale.norm) && std::isfinite(sums.loss.mean());
  const double max_norm = state.inputs->max_norm;
  const double coefficient = max_norm > 0 ? std::min(1.0, max_norm / (scale.norm + 1e-6)) : 1.0;
  scale.factor = coefficient / divisor;
  state.outputs.scale = scale;  // the verdict that what follows is under
  state.outputs.phases[bound.phase].scale = scale;
  state.cells[bound.writes(ValueKind::kScale)] = scale;
}

void update_scale(ExecutorState& state, const BoundInstruction& bound) {
  const bool finite = state.cell<Scale>(bound.reads(ValueKind::kScale)).finite;
  const LossScale before = state.cell<LossScale>(bound.reads(ValueKind::kLossScale));
  state.outputs.loss_scale = next_loss_scale(before, finite, state.inputs->grad_scaler);
  state.cells[bound.writes(ValueKind::kLossScale)] = state.outputs.loss_scale;
}

constexpr HandlerRow kHandlers[] = {
    {plan::Op::kAdd, &add},   {plan::Op::kAddTied, &add_tied},         {plan::Op::kMeasure, &measure},
    {plan::Op::kClip, &clip}, {plan::Op::kUpdateScale, &update_scale},
};

}  // namespace

std::span<const HandlerRow> gradient_handlers() { return kHandlers; }

}  // namespace furrow::train
