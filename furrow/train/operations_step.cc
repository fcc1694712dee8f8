// What changes a unit's parameters, their average and its statistics, and what is copied of them.
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <span>
#include <vector>

#include "furrow/tensor/composition_torch.h"
#include "furrow/train/executor_state_torch.h"

namespace furrow::train {
namespace {

using plan::ValueKind;

tensor::StateSpan span_of(const at::Tensor& state) {
  const auto size = static_cast<size_t>(state.numel());
  if (state.scalar_type() == at::kByte) return std::span<uint8_t>(state.data_ptr<uint8_t>(), size);
  return std::span<float>(state.data_ptr<float>(), size);
}

std::span<float> resident_params(const ExecutorState& state, int unit, const plan::Slice& elements) {
  float* params = state.model.unit(unit).params.data_ptr<float>();
  return {params + (elements.begin - state.model.params_slices()[unit].begin),
          static_cast<size_t>(elements.size())};
}

// What one call of an optimizer steps: a whole parameter, or elements of one rule.
struct StepRun {
  plan::Slice elements;
  bool whole = false;
  int64_t rows = 0;
};

// A group's elements in [slice), whole parameters each alone.
std::vector<StepRun> runs_of(const plan::UnitLayout& layout, const plan::FlatGroup& group,
                             const plan::Slice& slice) {
  const plan::Slice part{std::max(group.begin, slice.begin), std::min(group.end, slice.end)};
  std::vector<StepRun> runs;
  if (group.begin >= layout.whole_elements) {
    if (part.size() > 0) runs.push_back({part});
    return runs;
  }
  for (const plan::FlatSpan& span : layout.spans) {
    if (span.offset >= part.begin && span.offset < part.end)
      runs.push_back({{span.offset, span.offset + span.size}, true, span.rows});
  }
  return runs;
}

// An optimizer counts its own steps, those of a phase.
int64_t applied_steps(const ExecutorState& state, const BoundInstruction& bound) {
  return state.inputs->step - state.phase_before(bound.phase).skipped_steps;
}

void step_run(ExecutorState& state, const BoundInstruction& bound, const plan::FlatGroup& group,
              const StepRun& run) {
  const int unit = bound.unit();
  const auto size = static_cast<size_t>(run.elements.size());
  tensor::OptimizerSpan span;
  span.params = resident_params(state, unit, run.elements);
  span.gradient = state.flat(bound.gradient_reads[0]).subspan(run.elements.begin - bound.slice.begin, size);
  span.whole = run.whole;
  span.rows = run.rows;
  const OptimizerRule::Kernel& kernel = state.rule->kernel_of(group.rule);
  for (size_t s = 0; s < kernel.states.size(); ++s)
    span.states[s] = span_of(state.model.state_part(unit, kernel.states[s], run.elements));
  const Scale& scale = state.cell<Scale>(bound.reads(ValueKind::kScale));
  state.optimizer_math(unit).step(
      *kernel.optimizer, span,
      state.rule->parameters(applied_steps(state, bound), state.inputs->rates, scale.factor, group));
}

// What blocks read follows the masters that have been stepped.
void round_elements(ExecutorState& state, const BoundInstruction& bound, plan::Slice elements) {
  const UnitState& unit = state.model.unit(bound.unit());
  if (!unit.compute.defined() || elements.size() == 0) return;
  const int64_t from = elements.begin - state.model.params_slices()[bound.unit()].begin;
  const int64_t to = elements.begin - state.model.read_slices()[bound.unit()].begin;
  unit.compute.narrow(0, to, elements.size()).copy_(unit.params.narrow(0, from, elements.size()));
}

// Of the instruction's slice, what is trained.
plan::Slice trained_part(const ExecutorState& state, const BoundInstruction& bound) {
  const int64_t trained = state.model.flat().units[bound.unit()].trained_elements;
  return {std::min(bound.slice.begin, trained), std::min(bound.slice.end, trained)};
}

std::span<float> average_of(const ExecutorState& state, const BoundInstruction& bound,
                            const plan::Slice& part) {
  return span_of(state.model.state_part(bound.unit(), static_cast<size_t>(state.model.average()), part))
      .floats();
}

// For copy_up, as blocks read it.
void lay_out(ExecutorState& state, const BoundInstruction& bound, const plan::Slice& stepped) {
  if (stepped.size() == 0) return;
  const int64_t from = stepped.begin - state.model.params_slices()[bound.unit()].begin;
  state.tensor_of(bound.gradient_writes[0])
      .copy_(state.model.unit(bound.unit()).params.narrow(0, from, stepped.size()));
}

void step(ExecutorState& state, const BoundInstruction& bound) {
  const plan::UnitLayout& layout = state.model.flat().units[bound.unit()];
  for (const plan::FlatGroup& group : layout.groups) {
    for (const StepRun& run : runs_of(layout, group, bound.slice)) step_run(state, bound, group, run);
  }
  const plan::Slice stepped = trained_part(state, bound);
  if (bound.writes(ValueKind::kParams) >= 0) {
    round_elements(state, bound, stepped);
  } else {
    lay_out(state, bound, stepped);
  }
  if (state.model.average() < 0 || stepped.size() == 0) return;
  state.optimizer_math(bound.unit())
      .update_average(resident_params(state, bound.unit(), stepped), average_of(state, bound, stepped),
                      state.rule->average_decay(applied_steps(state, bound)));
}

void copy_down(ExecutorState& state, const BoundInstruction& bound) {
  state.launch(bound, state.copies->start(state.tensor_of(bound.gradient_writes[0]),
                                          state.tensor_of(bound.gradient_reads[0])));
}

void copy_up(ExecutorState& state, const BoundInstruction& bound) {
  const FlatOperand& from = bound.gradient_reads[0];
  if (from.size == 0) return;
  const int64_t to = from.slice.begin - state.model.read_slices()[bound.unit()].begin;
  state.launch(bound, state.copies->start(state.model.unit(bound.unit()).compute.narrow(0, to, from.size),
                                          state.tensor_of(from)));
}

void swap_statistics(ExecutorState& state, int unit) {
  const auto all = std::as_writable_bytes(span_of(state.model.unit(unit).statistics).floats());
  const size_t half = all.size() / 2;
  std::ranges::swap_ranges(all.first(half), all.last(half));
}

void swap_average(ExecutorState& state, const BoundInstruction& bound) {
  if (bound.writes(ValueKind::kStats) >= 0) swap_statistics(state, bound.unit());
  const plan::Slice part = trained_part(state, bound);
  if (part.size() == 0) return;
  state.optimizer_math(bound.unit())
      .swap(resident_params(state, bound.unit(), part), average_of(state, bound, part));
  round_elements(state, bound, part);
}

// Behind the running statistics, as the average of the weights: a count is no average, it stays what it is.
void average_statistics(ExecutorState& state, const BoundInstruction& bound) {
  const int unit = bound.unit();
  const plan::UnitLayout& layout = state.model.flat().units[unit];
  const std::span<float> all = span_of(state.model.unit(unit).statistics).floats();
  const double share = 1 - state.rule->average_decay(applied_steps(state, bound));
  for (const plan::StatisticSpan& span : layout.statistics) {
    const std::span<const float> running = all.subspan(span.offset, span.size);
    const std::span<float> average = all.subspan(layout.statistic_elements + span.offset, span.size);
    const plan::Statistic& statistic = state.model.spec().units[unit].statistics[span.statistic];
    if (statistic.fold == plan::Statistic::Fold::kCount) {
      std::ranges::copy(std::as_bytes(running), std::as_writable_bytes(average).begin());
      continue;
    }
    for (size_t i = 0; i < average.size(); ++i)
      average[i] = static_cast<float>(average[i] + share * (static_cast<double>(running[i]) - average[i]));
  }
}

// Running averages in double, rounded once a microbatch, as torch.nn.BatchNorm2d does.
void fold_stats(ExecutorState& state, const BoundInstruction& bound) {
  const std::span<float> running = span_of(state.model.unit(bound.unit()).statistics).floats();
  const plan::Unit& unit = state.model.spec().units[bound.unit()];
  std::vector<at::Tensor> all_said;
  for (const int slot : bound.statistic_reads)
    all_said.push_back(tensor::on_host(state.cell<at::Tensor>(slot)));
  for (const plan::StatisticSpan& span : state.model.flat().units[bound.unit()].statistics) {
    const plan::Statistic& statistic = unit.statistics[span.statistic];
    const std::span<float> to = running.subspan(span.offset, span.size);
    if (statistic.fold == plan::Statistic::Fold::kCount) {
      for (int64_t i = 0; i < statistic.size(); ++i)
        reinterpret_cast<int64_t*>(to.data())[i] += static_cast<int64_t>(bound.statistic_reads.size());
      continue;
    }
    for (const at::Tensor& said : all_said) {
      const float* batch = said.const_data_ptr<float>() + span.offset;
      for (size_t i = 0; i < to.size(); ++i)
        to[i] = static_cast<float>((1 - statistic.momentum) * to[i] + statistic.momentum * batch[i]);
    }
  }
  if (state.model.flat().units[bound.unit()].averages_statistics) average_statistics(state, bound);
}

void snapshot(ExecutorState& state, const BoundInstruction& bound) {
  auto& snapshots = state.outputs.snapshots;
  snapshots.resize(state.model.spec().units.size());
  snapshots[bound.unit()] = state.model.snapshot(
      bound.unit(), {bound.slice, bound.reads(ValueKind::kStats) >= 0, state.inputs->alias_snapshots});
}

constexpr HandlerRow kHandlers[] = {
    {plan::Op::kStep, &step},          {plan::Op::kFoldStats, &fold_stats},
    {plan::Op::kSnapshot, &snapshot},  {plan::Op::kSwapAverage, &swap_average},
    {plan::Op::kCopyDown, &copy_down}, {plan::Op::kCopyUp, &copy_up},
};

}  // namespace

std::span<const HandlerRow> step_handlers() { return kHandlers; }

}  // namespace furrow::train
