// The buffer pass: gives every value a slot, reuses slots whose value is dead, and says after which
// instruction a value is dropped.  A slot never holds two live values; verify() checks that.
#pragma once

#include <cstdint>
#include <vector>

#include "furrow/plan/flat_layout.h"
#include "furrow/plan/model_spec.h"
#include "furrow/plan/program.h"

namespace furrow::plan {

// A value that is kept until an instruction, though nothing reads it there: it was sent, and only then is it
// known to have arrived.
struct Hold {
  Value value;
  int32_t until = 0;  // index of the instruction
};

struct BufferRequest {
  const ModelSpec& spec;
  const FlatLayout& flat;  // flat_layout(spec)
  const std::vector<Hold>& holds;
};

// Fills drops, slots and assignments (what stood there is replaced).  A slot is taken up again by a value of
// the same class and the same bytes, of hosted values by one of any size; the result of an add, a tied add or
// a step takes the slot of the value that it replaces. What a collective of several units reads or writes
// (plan/buckets.h) lies end to end in one slot. An instruction never writes into the slot of another
// value that it reads.  REQUIRES: a validated spec; every value of the program exists in it (compile's do).
void assign_buffers(const BufferRequest& request, Program* program);

}  // namespace furrow::plan
