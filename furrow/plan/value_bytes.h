// Planned bytes of values, from specs and microbatch sizes.  Memory that an operation uses only inside itself
// is not counted; neither is the fragmentation of an allocator.
#pragma once

#include <cstdint>

#include "furrow/base/exact_sum.h"
#include "furrow/plan/flat_layout.h"
#include "furrow/plan/model_spec.h"
#include "furrow/plan/program.h"
#include "furrow/plan/slices.h"
#include "furrow/plan/state_form.h"

namespace furrow::plan {

inline constexpr int64_t kFloatBytes = 4;  // of an element of masters and optimizer state
// Of sums(), as they travel: three exact sums and five counts.
inline constexpr int64_t kSumsBytes =
    static_cast<int64_t>(sizeof(int64_t)) * (3 * (ExactSum::kLimbs / 2) + 5);

MemoryKind memory_kind(ValueKind kind);

// Whether what a slot of this kind holds stays allocated between values (flat buffers), or is freed with each
// value.
bool is_persistent(ValueKind kind);

// Kinds that may follow one another in a slot have the same class: its least kind.
ValueKind slot_class(ValueKind kind);

struct ByteContext {
  const ModelSpec& spec;
  const FlatLayout& flat;
  const std::vector<int64_t>& microbatch_sizes;
  const Placement& placement;
  const StateForms& states;  // of the optimizer
};

// Whether a value of this kind is, elementwise, a gradient of parameters.
bool is_gradient(ValueKind kind);

// The flat buffer that a value of a flat kind is a part of.
FlatBuffer buffer_of(const Value& value);

// Between a device and its host.  REQUIRES: a copy_down or copy_up.
int64_t copied_bytes(const ByteContext& context, const Instruction& instruction);

// The flat buffer that a communication instruction over units moves parts of.
FlatBuffer buffer_of(const Instruction& instruction);

// Inputs, targets (one int64 per row of the last unit's output) and sample ids of a batch; the loss as exact
// sums. REQUIRES: unit, use and microbatch of the value exist.
int64_t value_bytes(const ByteContext& context, const Value& value);

// Of an element of a value of a flat kind.
DType element_type(const FlatLayout& flat, const Value& value);
int64_t element_bytes(const FlatLayout& flat, const Value& value);

// The elements of the whole flat buffer that a value of a flat kind (gradient, total, params, state,
// gathered, snapshot) is on this rank.  None of a value of no unit.
Slice value_slice(const ByteContext& context, const Value& value);

}  // namespace furrow::plan
