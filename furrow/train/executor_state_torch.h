// The inside of the executor, shared by executor.cc (binding, the loop) and operations.cc (a handler per
// operation).
#pragma once

#include <array>
#include <span>
#include <vector>

#include "furrow/train/cells_torch.h"
#include "furrow/train/executor_torch.h"

namespace furrow::train {

inline constexpr size_t kValueKinds = static_cast<size_t>(plan::ValueKind::kSnapshot) + 1;

// Elements of a gradient slot that belong to no parameter.
struct Gap {
  int slot = 0;
  int64_t offset = 0, size = 0;
};

// An instruction with its slots looked up.
struct BoundInstruction {
  const plan::Instruction* instruction = nullptr;
  void (*handler)(struct ExecutorState&, const BoundInstruction&) = nullptr;
  std::array<int, kValueKinds> read;             // slot of the first value of a kind that is read, -1: none
  std::array<int, kValueKinds> write;            // the same for writes
  std::vector<int> gradient_reads;               // slots of gradient and total values, in order
  std::vector<int> drops;                        // slots to empty afterwards
  std::vector<std::pair<int, int64_t>> targets;  // backward_weight: by parameter {slot, element offset}
  std::vector<Gap> gaps;  // backward_weight: padding, which an earlier value may have used

  int unit() const { return instruction->unit; }
  int reads(plan::ValueKind kind) const { return read[static_cast<size_t>(kind)]; }
  int writes(plan::ValueKind kind) const { return write[static_cast<size_t>(kind)]; }
};

struct ExecutorState {
  const plan::Program& program;
  ModelState& model;
  const Objective& objective;
  const OptimizerRule* rule;
  const RankContext& rank;
  bool training = false;              // the program has a backward: dropout is on
  int first_trained = 0;              // the first unit that has one
  std::vector<Cell> cells;            // by slot
  std::vector<at::Tensor> gradients;  // by slot: the flat buffer of a gradient slot, kept between runs
  const RunInputs* inputs = nullptr;  // of the run in progress
  RunOutputs outputs;

  template <class T>
  T& cell(int slot) {
    return std::get<T>(cells[slot]);
  }
  std::span<float> gradient(int slot) const;  // REQUIRES: a gradient slot
  void release(int slot);                     // empties a cell; a batch goes back to the loader
};

using Handler = void (*)(ExecutorState&, const BoundInstruction&);
Handler handler_of(
    plan::Op op);  // Error{internal} for an operation without one (a test runs over all of them)

}  // namespace furrow::train
