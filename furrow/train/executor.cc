#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/plan/unit_facts.h"
#include "furrow/plan/value_bytes.h"
#include "furrow/tensor/composition_torch.h"
#include "furrow/tensor/dtype_torch.h"
#include "furrow/tensor/flat_buffer_torch.h"
#include "furrow/tensor/kernels/scratch_blocks.h"
#include "furrow/tensor/threads_torch.h"
#include "furrow/train/device_torch.h"
#include "furrow/train/executor_state_torch.h"
#include "furrow/train/predict.h"

namespace furrow::train {
namespace {

bool computes(plan::Op op) {
  return op == plan::Op::kForward || op == plan::Op::kRecompute || op == plan::Op::kBackwardInput ||
         op == plan::Op::kBackwardWeight;
}

}  // namespace

struct Executor::Impl {
  Impl(const plan::Program& program_in, ModelState& model, const Objective& objective,
       const OptimizerRule* rule, const RankContext& rank_in)
      : program(program_in), rank(rank_in), state{program, model, objective, rule, rank} {
    // Of the model, not of this rank's units.
    state.training = program.name == "train";
    state.facts = plan::model_facts(model.spec());
    state.targets = targets_of(model.spec());
    state.cells.resize(program.slots.size());
    state.flights.resize(program.slots.size());
    state.device = device_of(rank);
    {
      const tensor::CompositionScope scope(composes(rank));
      state.math = tensor::flat_math_on(state.device, rank.threads);
    }
    const bool kernels = state.device.is_cpu() && !composes(rank);
    if (kernels && multiplies(program, model.spec())) tensor::kernels::reserve_scratch(rank.threads);
    if (model.flat().offloads()) {
      state.host_math = tensor::flat_math_on(at::kCPU, rank.threads);
      state.copies = make_copy_lane(state.device, rank.clock);
    }
    state.axis = make_rank_axis(rank);
    make_buffers();
    for (const plan::Instruction& instruction : program.instructions)
      bound.push_back(bind(program, model, instruction));
    join_runs(program, model.flat(), bound);
    join_gathers(bound);
  }

  // By phase.
  std::vector<int64_t> targets_of(const plan::ModelSpec& spec) const {
    std::vector<int64_t> targets(static_cast<size_t>(state.facts.phases), 0);
    for (const plan::Head& head : state.facts.heads) {
      const Shape& output = spec.units[head.unit].output.shape;
      int64_t rows = program.samples();
      for (size_t i = 1; i + 1 < output.size(); ++i) rows *= output[i];
      targets[static_cast<size_t>(head.phase)] += rows;
    }
    return targets;
  }

  // Values that exist before the first instruction and live in cells.
  void give_inputs() {
    for (const plan::Value& value : program.inputs) {
      if (value.kind == plan::ValueKind::kLossScale)
        state.cells[program.slot_of(value)] = state.phase_before(value.index / 2).loss_scale;
    }
  }

  void make_buffers() {
    state.buffers.resize(program.slots.size());
    std::map<int64_t, int> gathered;  // how many buffers of a size
    for (const plan::SlotAssignment& assignment : program.assignments) {
      const plan::ValueKind kind = assignment.value.kind;
      const bool flat =
          plan::is_gradient(kind) || kind == plan::ValueKind::kGathered || kind == plan::ValueKind::kHosted;
      at::Tensor& buffer = state.buffers[assignment.slot];
      if (!flat || buffer.defined()) continue;
      const plan::Slot& slot = program.slots[assignment.slot];
      const bool shared = kind == plan::ValueKind::kGathered;
      // Units of several types may take turns in one that is gathered into.
      const at::ScalarType type = shared ? at::kByte : at::kFloat;
      const auto size = static_cast<int64_t>(at::elementSize(type));
      const int64_t elements = (slot.bytes + size - 1) / size;
      const auto make = [&] {
        if (kind == plan::ValueKind::kHosted) return tensor::pinned_buffer(elements, slot.kind, state.device);
        return rank_buffer(rank, elements, slot.kind, type);
      };
      buffer = shared ? state.model.gathered_buffer(slot.bytes, gathered[slot.bytes]++, make) : make();
    }
  }

  // `act`, whatever it throws as an Error.
  template <class Act>
  void with_errors(const Act& act) const {
    try {
      act();
    } catch (const Error&) {
      throw;
    } catch (const c10::OutOfMemoryError& error) {
      throw Error(ErrorCode::kResourceExhausted,
                  fmt::format("no memory on {}: use a smaller model or training.local_batch_size ({})",
                              state.device.str(), error.what_without_backtrace()));
    } catch (const std::exception& error) {
      throw Error(ErrorCode::kInternal, error.what());
    }
  }

  // The same with the instruction as the context of its errors.
  template <class Act>
  void within(const BoundInstruction& step, const Act& act) const {
    try {
      with_errors(act);
    } catch (Error& error) {
      throw error.with_context(where(step));
    }
  }

  // `inside_ns`: of it, communication.
  void count_compute(int64_t begin_ns, int64_t end_ns, int64_t inside_ns) {
    ComputeTimes& times = state.outputs.compute;
    if (times.begin_ns == 0) times.begin_ns = begin_ns;
    times.end_ns = end_ns;
    times.computing_ns += end_ns - begin_ns - inside_ns;
  }

  int64_t inside_ns() const { return state.axis ? state.axis->busy_ns() : 0; }

  void execute(const BoundInstruction& step) {
    const int64_t start_ns = rank.clock->monotonic_ns(), waited_ns = state.waited_ns();
    const int64_t inside_before_ns = inside_ns();
    within(step, [&] {
      state.settle(step);
      for (const auto& [unit, operand] : step.gathered) {
        if (!state.model.is_whole(unit)) state.model.point_at(unit, state.bytes(operand).data());
      }
      const int64_t begin_ns = rank.clock->monotonic_ns();
      step.handler(state, step);
      const int64_t end_ns = rank.clock->monotonic_ns();
      state.elsewhere_ns += end_ns - begin_ns;
      const int64_t inside = inside_ns() - inside_before_ns;
      if (computes(step.instruction->op)) count_compute(begin_ns, end_ns, inside);
      state.outputs.comm.exposed_ns += inside;
      state.outputs.comm.busy_ns += inside;
    });
    for (const int slot : step.drops) {
      state.release(slot);
      if (!step.communicates()) within(step, [&] { state.retire(slot); });
    }
    state.note(step,
               {step.index, start_ns, rank.clock->monotonic_ns() - start_ns, state.waited_ns() - waited_ns});
  }

  // The whole program; what is under way at its end has arrived on return.
  void execute_all() {
    const int64_t inside_before_ns = inside_ns();
    for (const BoundInstruction& step : bound) {
      const plan::Instruction& instruction = *step.instruction;
      // What follows the verdict is whole or not at all; ranks stop together, which the votes of `measure`
      // see to.
      const bool may_stop = rank.alone() && instruction.predicate == plan::Predicate::kAlways;
      if (may_stop && rank.cancel != nullptr && rank.cancel->cancelled()) {
        throw Error(ErrorCode::kCancelled, "asked to stop");
      }
      if (instruction.predicate == plan::Predicate::kAlways || state.outputs.scale.finite) execute(step);
    }
    for (const std::shared_ptr<Flight>& flight : state.started) {
      if (!flight->landed) within(*flight->bound, [&] { state.land(*flight); });
    }
    if (state.axis) state.outputs.comm.waits.push_back(inside_ns() - inside_before_ns);
  }

  // Of a program that predicts, what lives at its end.
  void give_outputs() {
    for (const plan::Value& value : program.outputs) {
      if (value.kind != plan::ValueKind::kBatch) continue;
      const data::Batch* batch = state.cell<const data::Batch*>(program.slot_of(value));
      const at::Tensor& output =
          state.cell<at::Tensor>(program.slot_of(plan::act_value(state.facts.prediction, value.index)));
      state.inputs->take(*batch, output.to(at::kCPU, at::kFloat).contiguous());
    }
  }

  // After an error: the other ranks learn of it, and no buffer is touched any more when this returns.
  void give_up(const Error& error) noexcept {
    if (!rank.alone()) {
      const std::string who = comm::describe(rank.communicator->roster(), rank.rank);
      rank.communicator->abort(Error(error.code(), fmt::format("{}: {}", who, error.what())));
    }
    for (const std::shared_ptr<Flight>& flight : state.started) {
      try {
        flight->work.wait();
      } catch (const std::exception&) {
        // The one that counts is on its way up already.
      }
    }
  }

  void end_run() {
    state.started.clear();
    std::ranges::fill(state.flights, nullptr);
    for (size_t slot = 0; slot < state.cells.size(); ++slot) state.release(static_cast<int>(slot));
  }

  std::string where(const BoundInstruction& step) const {
    const plan::Instruction& i = *step.instruction;
    std::string text = fmt::format("instruction {} {}", step.index, plan::op_info(i.op).name);
    if (i.unit >= 0) text += fmt::format(" of unit {}", program.units[i.unit]);
    if (i.microbatch >= 0) text += fmt::format(", microbatch {}", i.microbatch);
    return text;
  }

  plan::Program program;
  RankContext rank;
  ExecutorState state;
  std::vector<BoundInstruction> bound;
};

std::span<float> ExecutorState::flat(int slot, int64_t begin, int64_t size) const {
  return {buffers[slot].data_ptr<float>() + begin, static_cast<size_t>(size)};
}

tensor::Numbers ExecutorState::numbers(const FlatOperand& operand) const {
  auto* const data = static_cast<std::byte*>(buffers[operand.slot].data_ptr());
  return {operand.type, data + operand.begin * operand.element_bytes(), operand.size};
}

std::span<std::byte> ExecutorState::bytes(const FlatOperand& operand) const {
  const tensor::Numbers numbers = this->numbers(operand);
  return {numbers.data, static_cast<size_t>(numbers.bytes())};
}

at::Tensor ExecutorState::tensor_of(const FlatOperand& operand) const {
  return buffers[operand.slot].view(tensor::scalar_type(operand.type)).narrow(0, operand.begin, operand.size);
}

std::span<float> ExecutorState::flat(const FlatOperand& operand) const {
  FURROW_CHECK(operand.type == DType::kF32, "a buffer of 16 bits is read as float32");
  return flat(operand.slot, operand.begin, operand.size);
}

void ExecutorState::release(int slot) {
  if (std::holds_alternative<const data::Batch*>(cells[slot])) inputs->loader->release();
  cells[slot] = std::monostate();
}

void ExecutorState::start(const BoundInstruction& bound, std::vector<comm::Collective> batch,
                          std::function<void()> finish) {
  const plan::Instruction& instruction = *bound.instruction;
  comm::Group group = instruction.peer < 0 ? rank.group(instruction.axis)
                                           : rank.lane(instruction.peer, instruction.op == plan::Op::kSend);
  const int64_t start_ns = rank.clock->monotonic_ns();
  comm::Work work;
  if (batch.size() == 1) {
    work = group.start(std::move(batch.front()));
  } else if (!batch.empty()) {
    work = group.start(std::move(batch));
  }
  const int64_t exposed_ns = rank.clock->monotonic_ns() - start_ns;  // small ones run at once
  outputs.comm.exposed_ns += exposed_ns;
  launch(bound, std::move(work), std::move(finish), exposed_ns);
}

// `exposed_ns`: what the start took.
void ExecutorState::launch(const BoundInstruction& bound, comm::Work work, std::function<void()> finish,
                           int64_t exposed_ns) {
  auto flight = std::make_shared<Flight>();
  flight->number = started.size();
  outputs.comm.waits.push_back(exposed_ns);
  flight->work = std::move(work);
  flight->bound = &bound;
  flight->finish = std::move(finish);
  for (const int slot : bound.touches) flights[slot] = flight;
  started.push_back(std::move(flight));
}

void ExecutorState::land(Flight& flight) {
  const int64_t start_ns = rank.clock->monotonic_ns();
  flight.work.wait();
  const int64_t end_ns = rank.clock->monotonic_ns();
  flight.landed = true;
  CommTimes& times = flight.bound->copies() ? outputs.copies : outputs.comm;
  times.exposed_ns += end_ns - start_ns;
  if (!flight.bound->copies()) outputs.comm.waits[flight.number] += end_ns - start_ns;
  const int64_t busy_ns = flight.work.finished_ns() - flight.work.started_ns();
  times.busy_ns += busy_ns;
  note_landed(flight, busy_ns);
  if (const auto finish = std::exchange(flight.finish, nullptr)) finish();
  elsewhere_ns += rank.clock->monotonic_ns() - start_ns;
}

// What a dropped value was sent with is let go of as soon as it has arrived.
void ExecutorState::retire(int slot) {
  const std::shared_ptr<Flight> flight = flights[slot];
  if (flight == nullptr || flight->bound->instruction->peer < 0) return;
  if (!flight->landed && !flight->work.done()) return;
  if (!flight->landed) land(*flight);
  flights[slot].reset();
}

// What flies follows that of the same queue in the order of the starts, so it need not wait for it here,
// unless something is left to do on this thread in between.
void ExecutorState::settle(const BoundInstruction& bound) {
  for (const int slot : bound.touches) {
    const std::shared_ptr<Flight> flight = flights[slot];
    if (flight == nullptr) continue;
    if (!flight->landed && bound.shares_queue(*flight->bound) && !flight->finish) continue;
    if (!flight->landed) land(*flight);
    flights[slot].reset();
  }
}

at::Tensor ExecutorState::take_staging(int64_t bytes) {
  constexpr auto kSize = static_cast<int64_t>(sizeof(float));
  const int64_t elements = (bytes + kSize - 1) / kSize;
  for (size_t i = 0; i < staging.size(); ++i) {
    if (staging[i].numel() < elements) continue;
    at::Tensor taken = std::move(staging[i]);
    staging.erase(staging.begin() + static_cast<long>(i));
    return taken;
  }
  return rank_buffer(rank, elements, MemoryKind::kOther);
}

void ExecutorState::publish(const BoundInstruction& bound, const Sums& sums) {
  outputs.phases[bound.phase].loss = sums.loss;
  outputs.stop = sums.stop;
  outputs.ready = sums.ready;
}

double ExecutorState::loss_factor(const BoundInstruction& bound) {
  const int slot = bound.reads(plan::ValueKind::kLossScale);
  return slot < 0 ? 1.0 : factor_of_sum(cell<LossScale>(slot), targets[bound.phase]);
}

PhaseState ExecutorState::phase_before(int phase) const {
  const auto index = static_cast<size_t>(phase);
  return index < inputs->phases.size() ? inputs->phases[index] : PhaseState();
}

Executor::Executor(const plan::Program& program, ModelState& model, const Objective& objective,
                   const OptimizerRule* rule, const RankContext& rank)
    : impl_(std::make_unique<Impl>(program, model, objective, rule, rank)) {}

Executor::~Executor() = default;

RunOutputs Executor::run(const RunInputs& inputs) {
  ExecutorState& state = impl_->state;
  const int64_t start_ns = impl_->rank.clock->monotonic_ns();
  tensor::set_thread_count(impl_->rank.threads);
  const tensor::CompositionScope scope(composes(impl_->rank));
  const DeviceScope on(state.device);
  state.inputs = &inputs;
  state.outputs = RunOutputs();
  state.outputs.phases.resize(state.facts.phases);
  state.elsewhere_ns = 0;
  if (state.axis) state.axis->record(inputs.axis_ns);
  impl_->give_inputs();
  try {
    impl_->execute_all();
    impl_->with_errors([this] { impl_->give_outputs(); });  // a device's too, of what it did meanwhile
  } catch (const Error& error) {
    impl_->give_up(error);
    impl_->end_run();
    throw;
  }
  impl_->end_run();
  const std::vector<PhaseOutputs>& phases = state.outputs.phases;
  const auto refused = std::ranges::find_if(phases, [](const PhaseOutputs& p) { return !p.scale.finite; });
  state.outputs.loss = phases.front().loss;
  state.outputs.scale = refused == phases.end() ? phases.front().scale : refused->scale;
  state.outputs.own_ns = impl_->rank.clock->monotonic_ns() - start_ns - state.elsewhere_ns;
  return std::move(state.outputs);
}

const plan::Program& Executor::program() const { return impl_->program; }

at::Tensor Executor::gradient(const plan::Value& value) const {
  const plan::SlotAssignment& home = impl_->program.home_of(value);
  const plan::FlatLayout& flat = impl_->state.model.flat();
  const plan::Slice slice =
      plan::part_slice(flat, impl_->program.placement, plan::buffer_of(value), value.part);
  return impl_->state.buffers[home.slot]
      .view(tensor::scalar_type(plan::element_type(flat, value)))
      .narrow(0, home.offset / plan::element_bytes(flat, value), slice.size());
}

}  // namespace furrow::train
