// What units compute: forward, losses, backward.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>

#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/memory.h"
#include "furrow/tensor/dtype_torch.h"
#include "furrow/tensor/half_torch.h"
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
  return at::zeros({state.model.flat().units[bound.unit()].statistic_elements},
                   at::TensorOptions().dtype(at::kFloat).device(state.device));
}

// A unit may make numbers on the host (latent): what ranks send each other is the device's.
at::Tensor on_device(const ExecutorState& state, const at::Tensor& output) {
  return output.to(state.device, output.scalar_type(), /*non_blocking=*/true);
}

void forward(ExecutorState& state, const BoundInstruction& bound) {
  const MemoryScope scope(MemoryKind::kActivations);
  const int act = bound.writes(ValueKind::kAct), saved = bound.writes(ValueKind::kSaved);
  at::Tensor statistics = make_batch_statistics(state, bound);
  const std::span<float> said = statistics.defined() ? elements_of(statistics) : std::span<float>();
  if (statistics.defined()) state.cells[bound.writes(ValueKind::kBnStats)] = std::move(statistics);
  if (saved < 0) {  // a unit that is recomputed, or a forward-only program
    state.cells[act] = on_device(state, run_without_graph(state, bound, said));
    return;
  }
  std::unique_ptr<UnitGraph> graph = run_with_graph(state, bound, said);
  state.cells[act] = on_device(state, graph->output.detach());
  state.cells[saved] = std::move(graph);
}

void recompute(ExecutorState& state, const BoundInstruction& bound) {
  const MemoryScope scope(MemoryKind::kActivations);
  state.cells[bound.writes(ValueKind::kSaved)] = run_with_graph(state, bound);
}

LossSums sums_of(ExecutorState& state, const BoundInstruction& bound, at::Tensor* gradient,
                 at::ScalarType gradient_type = at::kFloat) {
  const MemoryScope scope(MemoryKind::kActivations);
  const data::Batch* batch = state.cell<const data::Batch*>(bound.reads(ValueKind::kBatch));
  const plan::Head& head = state.facts.heads[bound.head];
  const plan::Unit& unit = state.model.spec().units[head.unit];
  const at::Tensor& output = state.cell<at::Tensor>(bound.act_reads[0]);
  const at::Tensor target =
      head.label ? at::full({output.size(0)}, *head.label, at::kFloat) : batch_tensor(batch->arrays[1]);
  LossInputs inputs{output, target};
  inputs.gradient_type = gradient_type;
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
  const double factor = state.loss_factor(bound);
  const at::ScalarType type = state.cell<at::Tensor>(bound.reads(ValueKind::kAct)).scalar_type();
  state.cells[bound.writes(ValueKind::kLoss)] =
      sums_of(state, bound, &gradient, factor == 1 ? type : at::kFloat);
  const MemoryScope scope(MemoryKind::kActivations);
  if (factor != 1) gradient.mul_(static_cast<float>(factor));
  state.cells[bound.writes(ValueKind::kGrad)] = tensor::rounded(gradient, type, state.rank.threads);
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
      const int64_t size = graph->sink.writes(static_cast<int>(i)) ? unit.parameters[i].size() : 0;
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

constexpr HandlerRow kHandlers[] = {
    {plan::Op::kLoad, &load},
    {plan::Op::kForward, &forward},
    {plan::Op::kRecompute, &recompute},
    {plan::Op::kLoss, &loss},
    {plan::Op::kEvaluate, &evaluate},
    {plan::Op::kBackwardInput, &backward_input},
    {plan::Op::kBackwardWeight, &backward_weight},
};

}  // namespace

std::span<const HandlerRow> unit_handlers() { return kHandlers; }

}  // namespace furrow::train
