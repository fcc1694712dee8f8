#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/tensor/flat_buffer_torch.h"
#include "furrow/tensor/threads_torch.h"
#include "furrow/train/executor_state_torch.h"

namespace furrow::train {
namespace {

using plan::ValueKind;

bool is_gradient(ValueKind kind) { return kind == ValueKind::kGradient || kind == ValueKind::kTotal; }

// Where the gradient of each parameter of `unit` goes: its own flat buffer, or the buffer of the use it ties.
std::vector<std::pair<int, int64_t>> gradient_targets(const plan::Program& program, const ModelState& model,
                                                      const plan::Instruction& instruction) {
  const plan::Unit& unit = model.spec().units[instruction.unit];
  std::vector<std::pair<int, int64_t>> targets(unit.parameters.size(), {-1, 0});
  for (const plan::Value& value : instruction.writes) {
    const int slot = program.slot_of(value);
    if (value.unit == instruction.unit && value.index == 0) {
      for (const plan::FlatSpan& span : model.flat().units[value.unit].spans) {
        targets[span.parameter] = {slot, span.offset};
      }
    }
    for (const plan::TiedUse& use : model.flat().tied) {
      if (use.user_unit == instruction.unit && use.owner_unit == value.unit && use.use == value.index) {
        targets[use.user_parameter] = {slot, 0};
      }
    }
  }
  for (const auto& [slot, offset] : targets) FURROW_CHECK(slot >= 0, "a parameter's gradient has no target");
  return targets;
}

// The padding of every gradient that `instruction` writes.
std::vector<Gap> gradient_gaps(const plan::Program& program, const BoundInstruction& bound,
                               const plan::Unit& unit) {
  std::vector<Gap> gaps;
  for (const plan::Value& value : bound.instruction->writes) {
    const int slot = program.slot_of(value);
    std::vector<std::pair<int64_t, int64_t>> used;  // offset, size
    for (size_t i = 0; i < bound.targets.size(); ++i) {
      if (bound.targets[i].first == slot)
        used.emplace_back(bound.targets[i].second, unit.parameters[i].size());
    }
    std::sort(used.begin(), used.end());
    used.emplace_back(program.slots[slot].bytes / static_cast<int64_t>(sizeof(float)), 0);
    int64_t end = 0;
    for (const auto& [offset, size] : used) {
      if (offset > end) gaps.push_back({slot, end, offset - end});
      end = offset + size;
    }
  }
  return gaps;
}

BoundInstruction bind(const plan::Program& program, const ModelState& model,
                      const plan::Instruction& instruction) {
  BoundInstruction bound;
  bound.instruction = &instruction;
  bound.handler = handler_of(instruction.op);
  bound.read.fill(-1);
  bound.write.fill(-1);
  for (const plan::Value& value : instruction.reads) {
    const int slot = program.slot_of(value);
    int& first = bound.read[static_cast<size_t>(value.kind)];
    if (first < 0) first = slot;
    if (is_gradient(value.kind)) bound.gradient_reads.push_back(slot);
  }
  for (const plan::Value& value : instruction.writes) {
    int& first = bound.write[static_cast<size_t>(value.kind)];
    if (first < 0) first = program.slot_of(value);
  }
  for (const plan::Value& value : instruction.drops) {
    const int slot = program.slot_of(value);
    const bool rewritten = std::any_of(instruction.writes.begin(), instruction.writes.end(),
                                       [&](const plan::Value& v) { return program.slot_of(v) == slot; });
    if (!rewritten) bound.drops.push_back(slot);
  }
  if (instruction.op == plan::Op::kBackwardWeight) {
    bound.targets = gradient_targets(program, model, instruction);
    bound.gaps = gradient_gaps(program, bound, model.spec().units[instruction.unit]);
  }
  return bound;
}

}  // namespace

struct Executor::Impl {
  Impl(const plan::Program& program_in, ModelState& model, const Objective& objective,
       const OptimizerRule* rule, const RankContext& rank_in)
      : program(program_in),
        rank(rank_in),
        state{program, model, objective, rule, rank, false, 0, {}, {}, nullptr, {}} {
    for (const plan::Instruction& instruction : program.instructions) {
      if (instruction.op != plan::Op::kBackwardInput) continue;
      state.first_trained =
          state.training ? std::min(state.first_trained, instruction.unit) : instruction.unit;
      state.training = true;
    }
    state.cells.resize(program.slots.size());
    state.gradients.resize(program.slots.size());
    for (const plan::SlotAssignment& assignment : program.assignments) {
      at::Tensor& buffer = state.gradients[assignment.slot];
      if (!is_gradient(assignment.value.kind) || buffer.defined()) continue;
      const int64_t elements = program.slots[assignment.slot].bytes / static_cast<int64_t>(sizeof(float));
      buffer = tensor::flat_buffer(elements, MemoryKind::kGradients);
    }
    for (const plan::Instruction& instruction : program.instructions) {
      bound.push_back(bind(program, model, instruction));
    }
  }

  void execute(const BoundInstruction& step, int index) {
    const int64_t start_ns = state.inputs->trace ? rank.clock->monotonic_ns() : 0;
    try {
      step.handler(state, step);
    } catch (Error& error) {
      throw error.with_context(where(step, index));
    } catch (const std::exception& error) {
      throw Error(ErrorCode::kInternal, error.what()).with_context(where(step, index));
    }
    for (const int slot : step.drops) state.release(slot);
    if (state.inputs->trace) record(step, start_ns);
  }

  std::string where(const BoundInstruction& step, int index) const {
    const plan::Instruction& i = *step.instruction;
    std::string text = fmt::format("instruction {} {}", index, plan::op_info(i.op).name);
    if (i.unit >= 0) text += fmt::format(" of unit {}", program.units[i.unit]);
    if (i.microbatch >= 0) text += fmt::format(", microbatch {}", i.microbatch);
    return text;
  }

  void record(const BoundInstruction& step, int64_t start_ns) const {
    const plan::Instruction& i = *step.instruction;
    observe::TraceEvent event;
    event.category = std::string(plan::op_info(i.op).name);
    event.name = i.unit >= 0 ? fmt::format("{} {}", event.category, program.units[i.unit]) : event.category;
    event.stream = i.stream == plan::Stream::kCompute ? "compute" : "copy";
    event.start_ns = start_ns;
    event.duration_ns = rank.clock->monotonic_ns() - start_ns;
    event.args = {{"step", fmt::format("{}", state.inputs->step)},
                  {"microbatch", fmt::format("{}", i.microbatch)}};
    state.inputs->trace->push_back(std::move(event));
  }

  plan::Program program;
  RankContext rank;
  ExecutorState state;
  std::vector<BoundInstruction> bound;
};

std::span<float> ExecutorState::gradient(int slot) const {
  const at::Tensor& buffer = gradients[slot];
  return {buffer.data_ptr<float>(), static_cast<size_t>(buffer.numel())};
}

void ExecutorState::release(int slot) {
  if (std::holds_alternative<const data::Batch*>(cells[slot])) inputs->loader->release();
  cells[slot] = std::monostate();
}

Executor::Executor(const plan::Program& program, ModelState& model, const Objective& objective,
                   const OptimizerRule* rule, const RankContext& rank)
    : impl_(std::make_unique<Impl>(program, model, objective, rule, rank)) {}

Executor::~Executor() = default;

RunOutputs Executor::run(const RunInputs& inputs) {
  ExecutorState& state = impl_->state;
  tensor::set_thread_count(impl_->rank.threads);
  state.inputs = &inputs;
  state.outputs = RunOutputs();
  try {
    int index = 0;
    for (const BoundInstruction& step : impl_->bound) {
      const plan::Instruction& instruction = *step.instruction;
      const bool commits = instruction.op == plan::Op::kStep;
      if (!commits && impl_->rank.cancel != nullptr && impl_->rank.cancel->cancelled()) {
        throw Error(ErrorCode::kCancelled, "asked to stop");
      }
      if (instruction.predicate == plan::Predicate::kAlways || state.outputs.scale.finite)
        impl_->execute(step, index);
      ++index;
    }
  } catch (...) {
    for (size_t slot = 0; slot < state.cells.size(); ++slot) state.release(static_cast<int>(slot));
    throw;
  }
  for (size_t slot = 0; slot < state.cells.size(); ++slot) state.release(static_cast<int>(slot));
  return std::move(state.outputs);
}

const plan::Program& Executor::program() const { return impl_->program; }

at::Tensor Executor::gradient(const plan::Value& value) const {
  return impl_->state.gradients[impl_->program.slot_of(value)];
}

}  // namespace furrow::train
