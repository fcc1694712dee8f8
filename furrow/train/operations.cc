// What each operation does.  A new operation is a function here and a row of kHandlers.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/memory.h"
#include "furrow/tensor/dtype_torch.h"
#include "furrow/tensor/half_torch.h"
#include "furrow/tensor/norm.h"
#include "furrow/train/executor_state_torch.h"

namespace furrow::train {
namespace {

using plan::ValueKind;

void load(ExecutorState& state, const BoundInstruction& bound) {
  const data::Batch* batch = state.inputs->loader->next();
  FURROW_CHECK(batch != nullptr, "the loader ended before the program did");
  state.cells[bound.writes(ValueKind::kBatch)] = batch;
}

// A tensor over a batch's memory, which the loader keeps until the batch is dropped.
at::Tensor batch_tensor(const ArrayView& array) {
  return at::from_blob(array.bytes.data(), array.shape, tensor::scalar_type(array.dtype));
}

// Numbers as the unit computes in them, where it computes.  Anything else as it is: a lookup checks ids on
// the host.
at::Tensor converted(const ExecutorState& state, int unit, const at::Tensor& numbers) {
  if (!numbers.is_floating_point()) return numbers;
  return numbers.to(state.device, tensor::scalar_type(state.model.spec().units[unit].compute),
                    /*non_blocking=*/true);
}

at::Tensor unit_input(ExecutorState& state, const BoundInstruction& bound) {
  if (state.facts.units[bound.unit()].source >= 0)
    return converted(state, bound.unit(), state.cell<at::Tensor>(bound.reads(ValueKind::kAct)));
  const data::Batch* batch = state.cell<const data::Batch*>(bound.reads(ValueKind::kBatch));
  return converted(state, bound.unit(), batch_tensor(batch->arrays[0]));
}

std::span<float> elements_of(const at::Tensor& flat) {
  return {flat.data_ptr<float>(), static_cast<size_t>(flat.numel())};
}

void set_context(ExecutorState& state, const BoundInstruction& bound, tensor::OpContext* context) {
  context->threads = state.rank.threads;
  context->seed = state.rank.seed;
  context->step = state.inputs->step;
  const data::Batch* const batch = state.cell<const data::Batch*>(bound.reads(ValueKind::kBatch));
  context->sample_ids = batch->sample_ids;
  if (batch->arrays.size() > 2) context->positions = batch->arrays[2].as<int64_t>();
}

int64_t samples_of(const ExecutorState& state, const BoundInstruction& bound) {
  return state.program.microbatch_sizes[static_cast<size_t>(bound.instruction->microbatch)];
}

// `act` in a phase of the unit's declared collectives; where there is no axis, `act` alone.
template <class Act>
void in_phase(std::optional<nn::DeclaredAxis>& axis, nn::DeclaredAxis::Phase phase, int64_t samples,
              bool input_gradient, const Act& act) {
  if (axis) axis->enter(phase, samples, input_gradient);
  act();
  if (axis) axis->leave();
}

// Runs the unit's forward with a graph for backward; returns it with its output in place.
std::unique_ptr<UnitGraph> run_with_graph(ExecutorState& state, const BoundInstruction& bound,
                                          std::span<float> batch_statistics = {}) {
  const auto params = state.model.params(bound.unit());
  auto graph =
      std::make_unique<UnitGraph>(state.model.frozen(bound.unit()), state.model.spec().units[bound.unit()],
                                  state.axis.get(), state.device);
  set_context(state, bound, &graph->context);
  graph->context.training = true;
  graph->context.sink = state.model.trains(bound.unit()) ? &graph->sink : nullptr;
  graph->context.batch_statistics = batch_statistics;
  graph->input = unit_input(state, bound).detach();
  if (state.facts.units[bound.unit()].passes) graph->input.requires_grad_(true);
  const at::AutoGradMode grad_mode(true);
  in_phase(graph->declared, nn::DeclaredAxis::Phase::kForward, samples_of(state, bound), true, [&] {
    graph->output = state.model.block(bound.unit()).forward(graph->input, params, graph->context);
  });
  return graph;
}

at::Tensor run_without_graph(ExecutorState& state, const BoundInstruction& bound,
                             std::span<float> batch_statistics) {
  tensor::OpContext context;
  set_context(state, bound, &context);
  context.training = state.training && !state.model.spec().units[bound.unit()].inference;
  context.batch_statistics = batch_statistics;
  if (bound.reads(ValueKind::kStats) >= 0)
    context.statistics = elements_of(state.model.unit(bound.unit()).statistics);
  std::optional<nn::DeclaredAxis> axis;
  if (state.axis) context.axis = &axis.emplace(*state.axis, state.model.spec().units[bound.unit()]);
  const at::AutoGradMode grad_mode(false);
  at::Tensor output;
  in_phase(axis, nn::DeclaredAxis::Phase::kForward, samples_of(state, bound), true, [&] {
    output = state.model.block(bound.unit())
                 .forward(unit_input(state, bound), state.model.params(bound.unit()), context);
  });
  return output;
}

// Room for what the microbatch says of the unit's statistics; undefined where it is not asked.
at::Tensor make_batch_statistics(const ExecutorState& state, const BoundInstruction& bound) {
  if (bound.writes(ValueKind::kBnStats) < 0) return {};
  const MemoryScope scope(MemoryKind::kOther);
  return at::zeros({state.model.flat().units[bound.unit()].statistic_elements}, at::kFloat);
}

void forward(ExecutorState& state, const BoundInstruction& bound) {
  const MemoryScope scope(MemoryKind::kActivations);
  const int act = bound.writes(ValueKind::kAct), saved = bound.writes(ValueKind::kSaved);
  at::Tensor statistics = make_batch_statistics(state, bound);
  const std::span<float> said = statistics.defined() ? elements_of(statistics) : std::span<float>();
  if (statistics.defined()) state.cells[bound.writes(ValueKind::kBnStats)] = std::move(statistics);
  if (saved < 0) {  // a unit that is recomputed, or a forward-only program
    state.cells[act] = run_without_graph(state, bound, said);
    return;
  }
  std::unique_ptr<UnitGraph> graph = run_with_graph(state, bound, said);
  state.cells[act] = graph->output.detach();
  state.cells[saved] = std::move(graph);
}

void recompute(ExecutorState& state, const BoundInstruction& bound) {
  const MemoryScope scope(MemoryKind::kActivations);
  state.cells[bound.writes(ValueKind::kSaved)] = run_with_graph(state, bound);
}

LossSums sums_of(ExecutorState& state, const BoundInstruction& bound, at::Tensor* gradient) {
  const MemoryScope scope(MemoryKind::kActivations);
  const data::Batch* batch = state.cell<const data::Batch*>(bound.reads(ValueKind::kBatch));
  const plan::Head& head = state.facts.heads[bound.head];
  const plan::Unit& unit = state.model.spec().units[head.unit];
  const at::Tensor& output = state.cell<at::Tensor>(bound.act_reads[0]);
  const at::Tensor target =
      head.label ? at::full({output.size(0)}, *head.label, at::kFloat) : batch_tensor(batch->arrays[1]);
  LossInputs inputs{output, target};
  if (bound.act_reads.size() > 1) inputs.teacher = state.cell<at::Tensor>(bound.act_reads[1]);
  std::optional<nn::DeclaredAxis> axis;
  if (state.axis) axis.emplace(*state.axis, unit);
  LossSums sums;
  in_phase(axis, nn::DeclaredAxis::Phase::kLoss, samples_of(state, bound), true, [&] {
    if (axis && unit.output.tensor_axis >= 0) inputs.over = {&*axis, unit.output.whole};
    sums = state.objective.loss(inputs, gradient, state.rank.threads);
  });
  return sums;
}

// The gradient is scaled before it is rounded to the type of the last unit's output.
void loss(ExecutorState& state, const BoundInstruction& bound) {
  at::Tensor gradient;
  state.cells[bound.writes(ValueKind::kLoss)] = sums_of(state, bound, &gradient);
  const MemoryScope scope(MemoryKind::kActivations);
  const double factor = state.loss_factor(bound);
  if (factor != 1) {
    gradient.mul_(static_cast<float>(factor));
  }
  const at::ScalarType type = state.cell<at::Tensor>(bound.reads(ValueKind::kAct)).scalar_type();
  state.cells[bound.writes(ValueKind::kGrad)] = tensor::narrowed(gradient, type, state.rank.threads);
}

void evaluate(ExecutorState& state, const BoundInstruction& bound) {
  state.cells[bound.writes(ValueKind::kLoss)] = sums_of(state, bound, nullptr);
}

// Parameters whose operation defers its weight gradient come back undefined; the others are put.
void backward_input(ExecutorState& state, const BoundInstruction& bound) {
  const MemoryScope scope(MemoryKind::kActivations);
  auto graph = std::move(state.cell<std::unique_ptr<UnitGraph>>(bound.reads(ValueKind::kSaved)));
  const at::Tensor& grad = state.cell<at::Tensor>(bound.reads(ValueKind::kGrad));
  const auto params = state.model.params(bound.unit());
  const int input_grad = bound.writes(ValueKind::kGrad), deferred = bound.writes(ValueKind::kDeferred);
  std::vector<at::Tensor> wanted;
  const bool trains = state.model.trains(bound.unit());
  for (size_t i = 0; trains && i < params.size(); ++i) wanted.push_back(params[i].leaf);
  if (input_grad >= 0) wanted.push_back(graph->input);
  std::vector<at::Tensor> gradients;
  in_phase(graph->declared, nn::DeclaredAxis::Phase::kBackwardInput, samples_of(state, bound),
           input_grad >= 0, [&] {
             gradients = torch::autograd::grad({graph->output}, wanted, {grad.view_as(graph->output)},
                                               std::nullopt, /*create_graph=*/false, /*allow_unused=*/true);
           });
  graph->output.reset();
  for (size_t i = 0; trains && i < params.size(); ++i) {
    if (gradients[i].defined()) graph->sink.put(static_cast<int>(i), gradients[i].to(at::kFloat));
  }
  if (input_grad >= 0) {
    FURROW_CHECK(gradients.back().defined(), "the block's output does not depend on its input");
    state.cells[input_grad] = converted(state, state.facts.units[bound.unit()].source, gradients.back());
  }
  if (deferred >= 0) state.cells[deferred] = std::move(graph);
}

void backward_weight(ExecutorState& state, const BoundInstruction& bound) {
  const MemoryScope scope(MemoryKind::kOther);
  auto& graph = state.cell<std::unique_ptr<UnitGraph>>(bound.reads(ValueKind::kDeferred));
  const plan::Unit& unit = state.model.spec().units[bound.unit()];
  std::vector<std::span<float>> targets;
  std::vector<at::Tensor> unread;  // gradients of frozen parameters that come with those of others
  for (size_t i = 0; i < unit.parameters.size(); ++i) {
    if (state.model.frozen(bound.unit())[i]) {
      const int64_t size = graph->sink.has(static_cast<int>(i)) ? unit.parameters[i].size() : 0;
      unread.push_back(at::empty({size}, at::TensorOptions().dtype(at::kFloat).device(state.device)));
      targets.emplace_back(unread.back().data_ptr<float>(), static_cast<size_t>(size));
      continue;
    }
    const auto [slot, offset] = bound.targets[i];
    targets.push_back(state.flat(slot, offset, unit.parameters[i].size()));
  }
  for (const Gap& gap : bound.gaps) state.math->zero(state.flat(gap.slot, gap.offset, gap.size));
  const at::AutoGradMode grad_mode(false);
  in_phase(graph->declared, nn::DeclaredAxis::Phase::kBackwardWeight, samples_of(state, bound), true,
           [&] { graph->sink.write(targets); });
}

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

// Blocks of the grid: those that hold something that another rank counts, without it.
void add_counted_squares(const tensor::FlatMath& math, const tensor::Numbers& values,
                         const std::vector<Extent>& uncounted, ExactSum* sum) {
  const int64_t size = values.size;
  std::vector<float> block(plan::kGrid);
  const auto count = [&](const tensor::Numbers& part) {
    sum->add(math.sums_of_squares(std::span(&part, 1)).front());
  };
  int64_t begin = 0;  // of blocks that are counted whole
  const auto count_until = [&](int64_t end) {
    if (end > begin) count(values.part(begin, end - begin));
  };
  for (size_t next = 0; next < uncounted.size();) {
    const int64_t from = uncounted[next].begin / plan::kGrid * plan::kGrid;
    count_until(from);
    begin = from;
    // The blocks that this run touches, one at a time: the last may hold the next run too.
    while (next < uncounted.size() && uncounted[next].begin < begin + plan::kGrid) {
      const int64_t end = std::min(begin + plan::kGrid, size);
      const std::span<float> copy = std::span(block).first(static_cast<size_t>(end - begin));
      math.copy(values.part(begin, end - begin), copy);
      size_t last = next;
      for (; last < uncounted.size() && uncounted[last].begin < end; ++last) {
        const int64_t zero = std::max(uncounted[last].begin, begin) - begin;
        std::fill(block.begin() + zero, block.begin() + (std::min(uncounted[last].end, end) - begin), 0.0F);
      }
      count(copy);
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
    std::vector<tensor::Numbers> parts;
    for (const FlatOperand& gradient : bound.gradient_reads) parts.push_back(state.numbers(gradient));
    return state.math->sums_of_squares(parts);
  }
  std::vector<ExactSum> sums(bound.gradient_reads.size());
  for (size_t i = 0; i < sums.size(); ++i)
    add_counted_squares(*state.math, state.numbers(bound.gradient_reads[i]), bound.uncounted[i], &sums[i]);
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

tensor::StateSpan span_of(const at::Tensor& state) {
  const auto size = static_cast<size_t>(state.numel());
  if (state.scalar_type() == at::kByte) return std::span<uint8_t>(state.data_ptr<uint8_t>(), size);
  return std::span<float>(state.data_ptr<float>(), size);
}

std::span<float> resident_params(const ExecutorState& state, int unit, const Extent& elements) {
  float* params = state.model.unit(unit).params.data_ptr<float>();
  return {params + (elements.begin - state.model.params_extents()[unit].begin),
          static_cast<size_t>(elements.size())};
}

// What one call of an optimizer steps: a whole parameter, or elements of one rule.
struct StepRun {
  Extent elements;
  bool whole = false;
  int64_t rows = 0;
};

// A group's elements in [slice), whole parameters each alone.
std::vector<StepRun> runs_of(const plan::UnitLayout& layout, const plan::FlatGroup& group,
                             const plan::Slice& slice) {
  const Extent part{std::max(group.begin, slice.begin), std::min(group.end, slice.end)};
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

// An optimizer counts its own steps.
int64_t applied_steps(const ExecutorState& state) { return state.inputs->step - state.inputs->skipped; }

void step_run(ExecutorState& state, const BoundInstruction& bound, const plan::FlatGroup& group,
              const StepRun& run) {
  const int unit = bound.unit();
  const auto size = static_cast<size_t>(run.elements.size());
  tensor::OptimizerSpan span;
  span.params = resident_params(state, unit, run.elements);
  span.gradient = state.flat(bound.gradient_reads[0]).subspan(run.elements.begin - bound.slice.begin, size);
  span.whole = run.whole;
  span.rows = run.rows;
  for (size_t s = 0; s < state.rule->kernel_states(); ++s)
    span.states[s] = span_of(state.model.state_part(unit, s, run.elements));
  const Scale& scale = state.cell<Scale>(bound.reads(ValueKind::kScale));
  state.math->step(state.rule->kernel(), span,
                   state.rule->parameters(applied_steps(state), state.inputs->rates, scale.factor, group));
}

// What blocks read follows the masters that have been stepped.
void round_elements(ExecutorState& state, const BoundInstruction& bound, Extent elements) {
  const UnitState& unit = state.model.unit(bound.unit());
  if (!unit.compute.defined() || elements.size() == 0) return;
  const int64_t from = elements.begin - state.model.params_extents()[bound.unit()].begin;
  const int64_t to = elements.begin - state.model.read_extents()[bound.unit()].begin;
  unit.compute.narrow(0, to, elements.size()).copy_(unit.params.narrow(0, from, elements.size()));
}

// Of the instruction's slice, what is trained.
Extent trained_part(const ExecutorState& state, const BoundInstruction& bound) {
  const int64_t trained = state.model.flat().units[bound.unit()].trained_elements;
  return {std::min(bound.slice.begin, trained), std::min(bound.slice.end, trained)};
}

std::span<float> average_of(const ExecutorState& state, const BoundInstruction& bound, const Extent& part) {
  return span_of(state.model.state_part(bound.unit(), static_cast<size_t>(state.model.average()), part))
      .floats();
}

void step(ExecutorState& state, const BoundInstruction& bound) {
  const plan::UnitLayout& layout = state.model.flat().units[bound.unit()];
  for (const plan::FlatGroup& group : layout.groups) {
    for (const StepRun& run : runs_of(layout, group, bound.slice)) step_run(state, bound, group, run);
  }
  const Extent stepped = trained_part(state, bound);
  round_elements(state, bound, stepped);
  if (state.model.average() < 0 || stepped.size() == 0) return;
  state.math->update_average(resident_params(state, bound.unit(), stepped), average_of(state, bound, stepped),
                             state.rule->average_decay(applied_steps(state)));
}

void swap_average(ExecutorState& state, const BoundInstruction& bound) {
  const Extent part = trained_part(state, bound);
  if (part.size() == 0) return;
  state.math->swap(resident_params(state, bound.unit(), part), average_of(state, bound, part));
  round_elements(state, bound, part);
}

// Running averages in double, rounded once a microbatch, as torch.nn.BatchNorm2d does.
void fold_stats(ExecutorState& state, const BoundInstruction& bound) {
  const std::span<float> running = elements_of(state.model.unit(bound.unit()).statistics);
  const plan::Unit& unit = state.model.spec().units[bound.unit()];
  for (const plan::StatisticSpan& span : state.model.flat().units[bound.unit()].statistics) {
    const plan::Statistic& statistic = unit.statistics[span.statistic];
    const std::span<float> to = running.subspan(span.offset, span.size);
    if (statistic.fold == plan::Statistic::Fold::kCount) {
      for (int64_t i = 0; i < statistic.size(); ++i)
        reinterpret_cast<int64_t*>(to.data())[i] += static_cast<int64_t>(bound.statistic_reads.size());
      continue;
    }
    for (const int slot : bound.statistic_reads) {
      const float* batch = state.cell<at::Tensor>(slot).const_data_ptr<float>() + span.offset;
      for (size_t i = 0; i < to.size(); ++i)
        to[i] = static_cast<float>((1 - statistic.momentum) * to[i] + statistic.momentum * batch[i]);
    }
  }
}

void snapshot(ExecutorState& state, const BoundInstruction& bound) {
  auto& snapshots = state.outputs.snapshots;
  snapshots.resize(state.model.spec().units.size());
  snapshots[bound.unit()] = state.model.snapshot(bound.unit(), {{bound.slice.begin, bound.slice.end},
                                                                bound.reads(ValueKind::kStats) >= 0,
                                                                state.inputs->alias_snapshots});
}

struct Row {
  plan::Op op;
  Handler handler;
};

constexpr Row kHandlers[] = {
    {plan::Op::kLoad, &load},
    {plan::Op::kForward, &forward},
    {plan::Op::kRecompute, &recompute},
    {plan::Op::kLoss, &loss},
    {plan::Op::kEvaluate, &evaluate},
    {plan::Op::kBackwardInput, &backward_input},
    {plan::Op::kBackwardWeight, &backward_weight},
    {plan::Op::kAdd, &add},
    {plan::Op::kAddTied, &add_tied},
    {plan::Op::kMeasure, &measure},
    {plan::Op::kClip, &clip},
    {plan::Op::kUpdateScale, &update_scale},
    {plan::Op::kStep, &step},
    {plan::Op::kFoldStats, &fold_stats},
    {plan::Op::kSnapshot, &snapshot},
    {plan::Op::kSwapAverage, &swap_average},
    {plan::Op::kRound, &convert},
    {plan::Op::kWiden, &convert},
};

}  // namespace

Handler handler_of(plan::Op op) {
  for (const Row& row : kHandlers) {
    if (row.op == op) return row.handler;
  }
  if (const Handler handler = communication_handler_of(op)) return handler;
  throw Error(ErrorCode::kInternal, fmt::format("operation {} has no handler", plan::op_info(op).name));
}

}  // namespace furrow::train
