// Bytes of values that come and go, instruction by instruction, as the executor holds them: what verify()
// reports and simulate() draws.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <vector>

#include "furrow/base/memory.h"
#include "furrow/plan/model_spec.h"
#include "furrow/plan/program.h"

namespace furrow::plan {

using MemoryByKind = std::array<int64_t, kMemoryKinds>;

// A value has the bytes of its slot, with these exceptions, where memory has two names:
//   saved      holds on to the output of its unit, act, until it goes; of a recomputation that is another
//   one; deferred   takes over what it needs of saved and of the gradient that came (Unit::kept_saved_bytes,
//              kept_grad_bytes).
// What a unit needs while it runs (Unit::forward_scratch and others) comes and goes with the instruction.
class LiveMemory {
 public:
  using SlotOf = std::function<const Slot&(const Value&)>;
  // REQUIRES: both outlive it.
  LiveMemory(const Program& program, const ModelSpec& spec, SlotOf slot_of);

  MemoryByKind persistent() const;  // flat buffers and what exchanges receive in, all the time

  struct Change {
    MemoryByKind written{};  // lives from when the instruction begins
    MemoryByKind dropped{};  // goes when it has ended
  };
  // REQUIRES: the instructions of the program, one after the other.
  Change apply(const Instruction& instruction);

 private:
  // What a unit has of a microbatch.
  struct Held {
    bool act = false, saved = false;
    bool again = false;  // saved is of a recomputation
  };

  Held& held(const Value& value);
  int64_t output_bytes(const Value& value) const;
  int64_t samples(const Value& value) const;
  int64_t written_bytes(const Value& value, Op op);
  int64_t dropped_bytes(const Value& value, bool defers);
  int64_t scratch_bytes(const Instruction& instruction) const;

  const Program& program_;
  const ModelSpec& spec_;
  const SlotOf slot_of_;
  std::vector<Held> held_;  // by unit and microbatch
};

}  // namespace furrow::plan
