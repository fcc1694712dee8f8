// Runs a program: the same list that was verified and printed, on real blocks and buffers.
//
// One handler per operation (operations_*.cc).  The executor owns the cells and buffers of
// the program's slots; between runs only flat buffers stay allocated.  Not thread safe; one per rank and
// program.
//
// Communication, and copies between a device and its host, are started and go on beside the rest: their Work
// stays on every slot that the instruction reads or writes, and is waited for before another instruction
// touches such a slot, or at the end of the program.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "furrow/data/loader.h"
#include "furrow/observe/trace.h"
#include "furrow/plan/program.h"
#include "furrow/train/loss_scale.h"
#include "furrow/train/lr_schedule.h"
#include "furrow/train/model_state_torch.h"
#include "furrow/train/objective_torch.h"
#include "furrow/train/optimizer_rule.h"
#include "furrow/train/rank_context.h"
#include "furrow/train/step_ledger.h"

namespace furrow::train {

// What the gradient is multiplied with at the step, and whether there is a step at all.
struct Scale {
  double factor = 0;         // 1/LossSums::divisor() times the clip coefficient
  double norm = 0;           // L2 norm of the mean gradient, before clipping
  bool finite = true;        // loss and every gradient
  int non_finite_unit = -1;  // the first unit with a non-finite gradient, when known
};

// When an instruction ran, on one monotonic clock; communication and copies when they were under way.
struct InstructionTime {
  int instruction = 0;  // index in the program
  int64_t start_ns = 0;
  int64_t duration_ns = 0;
  int64_t waited_ns = 0;  // for communication and copies, of the duration
};

struct RunInputs {
  data::Loader* loader = nullptr;  // one batch per `load`
  int64_t step = 0;                // counts from 0: the counter of random numbers
  std::vector<PhaseState> phases;  // as the step before left them; one that is missing is as at the start
  Rates rates;
  double max_norm = 0;             // 0: no clipping
  config::GradScaler grad_scaler;  // how loss scales move
  bool alias_snapshots = false;    // snapshot() hands out the live buffers instead of copies
  bool ready = false;              // this rank's vote: counted in RunOutputs::ready
  // Predict programs: gets each microbatch and the model's output for it, float32, valid within the call.
  std::function<void(const data::Batch& batch, const at::Tensor& output)> take = {};
  std::vector<observe::TraceEvent>* trace = nullptr;  // gets one event per instruction when set
  std::vector<InstructionTime>* times = nullptr;      // gets one per instruction when set
  std::function<void(int instruction)> after = {};    // called behind each instruction when set
  std::vector<int64_t>* axis_ns = nullptr;  // gets what each collective of the tensor axis took when set
};

// Of a phase of a training step; an evaluation has one.
struct PhaseOutputs {
  LossSums loss;     // over all microbatches of all ranks
  Scale scale;       // train programs
  PhaseState state;  // the same: for the next step
};

struct RunOutputs {
  LossSums loss;                     // of the first phase
  Scale scale;                       // the same; where it is finite and another phase's is not, that one's
  std::vector<PhaseOutputs> phases;  // by phase, one at least
  int64_t stop = 0;                  // a rank was asked to stop: the largest reason; 0 in a world of one
  int64_t ready = 0;                 // ranks that voted so
  std::vector<UnitState> snapshots;  // save programs, by unit
  CommTimes comm;
  CommTimes copies;  // between the device and its host, likewise
  ComputeTimes compute;
  int64_t own_ns = 0;  // of the run's time, what the executor took: neither in handlers nor waiting
};

class Executor {
 public:
  // `rule` may be null for programs without `step`.  All references outlive the executor.
  Executor(const plan::Program& program, ModelState& model, const Objective& objective,
           const OptimizerRule* rule, const RankContext& rank);
  ~Executor();

  // Error{cancelled} when the rank's token is set between instructions in a world of one: nothing of the step
  // has been applied.  Errors of blocks, data and peers carry the instruction as context; an error of this
  // rank aborts the others.
  RunOutputs run(const RunInputs& inputs);

  const plan::Program& program() const;

  // The flat gradient (its part) that a value was given, for tests: valid until the next run.
  at::Tensor gradient(const plan::Value& value) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace furrow::train
