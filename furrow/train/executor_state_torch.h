// The inside of the executor, shared by executor_bind.cc (slots looked up), executor.cc (the loop),
// operations_*.cc (a handler per operation).
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "furrow/comm/group.h"
#include "furrow/plan/exchange.h"
#include "furrow/plan/slices.h"
#include "furrow/plan/unit_facts.h"
#include "furrow/tensor/flat_math_torch.h"
#include "furrow/train/cells_torch.h"
#include "furrow/train/copy_lane_torch.h"
#include "furrow/train/executor_torch.h"
#include "furrow/train/rank_axis_torch.h"
#include "furrow/train/residence_torch.h"

namespace furrow::train {

// A flat value in its slot.
struct FlatOperand {
  int slot = -1;
  int64_t begin = 0, size = 0;  // elements
  plan::Slice slice;            // what it is of the whole buffer
  DType type = DType::kF32;

  int64_t element_bytes() const { return static_cast<int64_t>(dtype_size(type)); }
};

// Elements of a gradient that belong to no parameter.
struct Gap {
  int slot = 0;
  int64_t offset = 0, size = 0;
};

// What a gather_stats brings from a data rank: a unit's statistics of one microbatch.
struct Arrival {
  int slot = -1;  // -1: this rank's own
  int64_t elements = 0;
};

// Where the weight gradient of a parameter goes.
struct Target {
  int slot = -1;
  int64_t offset = 0;
};

// Elements of a unit's parameters.
struct UnitSlice {
  int unit = 0;
  plan::Slice slice;
};

// An instruction with its slots looked up.  The last one of a run (plan/buckets.h) has, as its operands,
// slices and counts of communication, what all of the run have end to end.
struct BoundInstruction {
  const plan::Instruction* instruction = nullptr;
  void (*handler)(struct ExecutorState&, const BoundInstruction&) = nullptr;
  int index = 0;                             // in the program
  std::array<int, plan::kValueKinds> read;   // slot of the first value of a kind that is read, -1: none
  std::array<int, plan::kValueKinds> write;  // the same for writes
  std::vector<FlatOperand> gradient_reads;   // values that are gradients, in order
  std::vector<FlatOperand> gradient_writes;  // the same
  std::vector<int> loss_reads;               // measure: slots of losses
  std::vector<std::vector<plan::Slice>> uncounted;    // measure: by gradient, what of it another rank counts
  std::vector<int> statistic_reads;                   // slots of bn_stats, in order
  std::vector<int> act_reads;                         // slots of activations, in order
  int head = 0;                                       // loss, evaluate: which
  int phase = 0;                                      // whose sums, verdict or loss scale it touches
  std::vector<Arrival> arrivals;                      // gather_stats: what comes, in order
  std::vector<int> touches;                           // every slot that is read or written, once
  std::vector<int> drops;                             // slots to empty afterwards
  std::vector<std::pair<int, FlatOperand>> gathered;  // units whose gathered parameters are read or written
  std::vector<Target> targets;                        // backward_weight: by parameter
  std::vector<Gap> gaps;                   // backward_weight: padding, which an earlier value may have used
  plan::Slice slice;                       // step, gather_params, gather_updated: of the unit's flat buffer
  std::vector<int64_t> counts;             // communication: elements of each member's slice
  std::vector<plan::Slice> member_slices;  // the same, in the whole buffer
  std::shared_ptr<const plan::Exchange> exchange;  // reduce_grads
  std::vector<plan::NodeSum> sums;                 // reduce_grads that is not plain: its additions
  std::string label;                               // communication: "reduce_grads h.3"
  const BoundInstruction* gather = nullptr;        // reduce_grads: what follows it and is started with it
  bool started_before = false;                     // gather_grads: with its reduce_grads
  bool started_after = false;                      // of a run, by its last one
  FlatOperand flat;                                // transfer of a flat value; gather_params: what it writes
  std::vector<UnitSlice> own_params, all_params;   // gathers of parameters: what a rank brings, what comes

  int unit() const { return instruction->unit; }
  int reads(plan::ValueKind kind) const { return read[static_cast<size_t>(kind)]; }
  int writes(plan::ValueKind kind) const { return write[static_cast<size_t>(kind)]; }
  bool communicates() const { return instruction->axis != plan::GroupAxis::kNone; }
  bool copies() const { return plan::is_copy(instruction->op); }
  bool flies() const { return communicates() || copies(); }
  // What flies in one queue follows one another: collectives, the transfers of a lane, or copies.
  bool shares_queue(const BoundInstruction& other) const {
    const plan::Instruction &a = *instruction, &b = *other.instruction;
    if (copies() || other.copies()) return copies() && other.copies();
    return communicates() && other.communicates() && a.peer == b.peer && (a.peer < 0 || a.op == b.op);
  }
};

// Communication, or a copy between the device and its host, under way.
struct Flight {
  comm::Work work;
  const BoundInstruction* bound = nullptr;
  std::function<void()> finish;  // what is left to do on this thread once it has arrived; may be null
  bool landed = false;
  size_t number = 0;  // of what was started in this run
};

struct ExecutorState {
  const plan::Program& program;
  ModelState& model;
  const Objective& objective;
  const OptimizerRule* rule;
  const RankContext& rank;
  bool training = false;         // the program has a backward: dropout is on
  plan::ModelFacts facts = {};   // who reads whom
  at::Device device = at::kCPU;  // of flat buffers and activations
  std::unique_ptr<tensor::FlatMath> math = {};
  std::unique_ptr<tensor::FlatMath> host_math = {};  // of optimizers that are on the host; null: none is
  std::unique_ptr<CopyLane> copies = {};             // to that memory and back; null: nothing is there
  std::unique_ptr<RankAxis> axis = {};               // null: a tensor axis of one rank
  std::vector<int64_t> targets = {};  // of each phase in the global batch, counted as if none were left out
  std::vector<Cell> cells = {};       // by slot
  std::vector<at::Tensor> buffers = {};  // by slot: flat gradients and gathered parameters, kept between runs
  std::vector<std::shared_ptr<Flight>> flights = {};  // by slot: the last that touches it
  std::vector<std::shared_ptr<Flight>> started = {};  // in this run, in order
  std::vector<at::Tensor> staging = {};               // of exchanges, free for the next one
  const RunInputs* inputs = nullptr;                  // of the run in progress
  RunOutputs outputs = {};
  int64_t elsewhere_ns = 0;  // of the run so far: in handlers, and in landing what was under way

  // Where the unit's optimizer is.
  const tensor::FlatMath& optimizer_math(int unit) const {
    return model.flat().units[unit].offload ? *host_math : *math;
  }

  template <class T>
  T& cell(int slot) {
    return std::get<T>(cells[slot]);
  }
  // REQUIRES: of a slot with a buffer, float32.
  std::span<float> flat(const FlatOperand& operand) const;
  std::span<float> flat(int slot, int64_t begin, int64_t size) const;
  // The same of any type.
  tensor::Numbers numbers(const FlatOperand& operand) const;
  std::span<std::byte> bytes(const FlatOperand& operand) const;
  at::Tensor tensor_of(const FlatOperand& operand) const;
  void release(int slot);  // empties a cell; a batch goes back to the loader

  // Starts the instruction's communication over the group of its axis.
  void start(const BoundInstruction& bound, std::vector<comm::Collective> batch,
             std::function<void()> finish = {});
  // Keeps what the instruction has started on every slot that it touches.
  void launch(const BoundInstruction& bound, comm::Work work, std::function<void()> finish = {},
              int64_t exposed_ns = 0);
  int64_t waited_ns() const { return outputs.comm.exposed_ns + outputs.copies.exposed_ns; }  // so far
  void note_landed(const Flight& flight, int64_t busy_ns);
  void land(Flight& flight);                   // waits, and does what is left to do
  void settle(const BoundInstruction& bound);  // lands what the instruction must wait for
  void retire(int slot);                       // of a value that was dropped
  void note(const BoundInstruction& bound, const InstructionTime& time);  // what the rank's thread did
  at::Tensor take_staging(int64_t bytes);                                 // float32, as many as hold them
  void publish(const BoundInstruction& bound, const Sums& sums);          // into outputs
  PhaseState phase_before(int phase) const;                               // as the step before left it
  // What the gradients of the sum are multiplied with on their way; 1 where the instruction reads no scale.
  double loss_factor(const BoundInstruction& bound);
};

using Handler = void (*)(ExecutorState&, const BoundInstruction&);
Handler handler_of(
    plan::Op op);  // Error{internal} for an operation without one (a test runs over all of them)

// Its parts, by concern: operations_units.cc, operations_gradients.cc, operations_step.cc,
// operations_comm.cc.
struct HandlerRow {
  plan::Op op;
  Handler handler;
};
std::span<const HandlerRow> unit_handlers();
std::span<const HandlerRow> gradient_handlers();
std::span<const HandlerRow> step_handlers();
std::span<const HandlerRow> communication_handlers();

BoundInstruction bind(const plan::Program& program, const ModelState& model,
                      const plan::Instruction& instruction);

// Has the last instruction of each run of the program do what all of it does (plan/buckets.h), as one.
void join_runs(const plan::Program& program, const plan::FlatLayout& flat, std::span<BoundInstruction> bound);

// Has each reduce_grads start the gather_grads right behind it that brings its result back to where it read.
// REQUIRES: `bound` stays where it is; join_runs().
void join_gathers(std::span<BoundInstruction> bound);

}  // namespace furrow::train
