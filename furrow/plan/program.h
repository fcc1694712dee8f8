// A program: one step of one shape, as a flat list of instructions.  Plain data; the same list is verified, printed and
// executed.  Order within a stream plus values is the only synchronisation.
//
// Values are versioned and written exactly once.  Their homes (slots) are assigned by a later pass (plan/buffers.h).
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/base/memory.h"
#include "furrow/plan/model_spec.h"

namespace furrow::plan {

enum class ValueKind : uint8_t {
  kBatch,     // batch(m)              inputs, targets, weights, sample ids of microbatch m
  kAct,       // act(u,m)              output of unit u
  kSaved,     // saved(u,m)            what backward of unit u needs (its small autograd graph)
  kGrad,      // grad(u,m)             gradient with respect to act(u,m), of the *sum* of losses
  kDeferred,  // deferred(u,m)         weight-gradient work queued by backward_input
  kGradient,  // gradient(u,use,b,e)   flat gradient of unit u, use `use`, over microbatches [b,e)
  kTotal,     // total(u)              flat gradient of all uses: only for units with tied uses
  kLoss,      // loss(m)               exact sums: loss, count, correct
  kScale,     // scale()               gradient factor (1/count times the clip coefficient), norm, finite verdict
  kParams,    // params(u,v)           flat parameters; v 0 before the step, 1 after
  kState,     // state(u,v)            flat optimizer state
  kSnapshot,  // snapshot(u)           copy of params and state for a checkpoint
};
std::string_view to_string(ValueKind kind);

struct Value {
  ValueKind kind = ValueKind::kBatch;
  int32_t unit = -1;       // -1 where the kind has none
  int32_t index = 0;       // microbatch, version or use, by kind
  int32_t begin = 0;       // microbatch range of a gradient node, else 0
  int32_t end = 0;
  friend auto operator<=>(const Value&, const Value&) = default;
};
std::string to_string(const Value& value);  // "gradient(3,0,[0,2))"
Value parse_value(std::string_view text);   // Error{invalid_argument}

enum class Op : uint8_t {
  kLoad,
  kForward,
  kRecompute,
  kLoss,
  kEvaluate,
  kBackwardInput,
  kBackwardWeight,
  kAdd,
  kAddTied,
  kClip,
  kStep,
  kSnapshot,
};

enum class Stream : uint8_t { kCompute, kCopy };

// When an instruction runs: always, or only if the verdict of scale() is finite.
enum class Predicate : uint8_t { kAlways, kFinite };

struct Instruction {
  Op op = Op::kLoad;
  Stream stream = Stream::kCompute;
  Predicate predicate = Predicate::kAlways;
  int32_t unit = -1;
  int32_t microbatch = -1;
  std::vector<Value> reads;
  std::vector<Value> writes;
  std::vector<Value> drops;  // values whose last use this is; filled by assign_buffers
  friend bool operator==(const Instruction&, const Instruction&) = default;
};

// One row of plan/ops.cc per operation: its name and which value kinds it may read and write.
struct OpInfo {
  Op op;
  std::string_view name;  // "backward_input"
  bool has_unit;
  bool has_microbatch;
};
const OpInfo& op_info(Op op);
const OpInfo* find_op(std::string_view name);  // nullptr when unknown
std::vector<Op> all_ops();

// A home for values.  Gradient slots are flat float32 buffers of `bytes`; the others hold what the executor puts there.
struct Slot {
  MemoryKind kind = MemoryKind::kOther;
  int64_t bytes = 0;  // as planned; 0 where unknown
  friend bool operator==(const Slot&, const Slot&) = default;
};

struct SlotAssignment {
  Value value;
  int32_t slot = 0;
  friend bool operator==(const SlotAssignment&, const SlotAssignment&) = default;
};

struct Program {
  std::string name;                        // "train", "evaluate", "save"
  std::vector<std::string> units;          // names, by index
  std::vector<int64_t> microbatch_sizes;   // samples in each
  std::vector<Value> inputs;               // exist before the first instruction: params, state
  std::vector<Value> outputs;              // live after the last
  std::vector<Instruction> instructions;
  std::vector<Slot> slots;                 // empty before assign_buffers
  std::vector<SlotAssignment> assignments; // sorted by value
  friend bool operator==(const Program&, const Program&) = default;

  int64_t samples() const;
  int32_t slot_of(const Value& value) const;  // Error{internal} when it has none
};

// A form a person can read; parse_program(to_text(p)) == p.  Malformed text: Error{invalid_argument} with the line.
std::string to_text(const Program& program);
Program parse_program(std::string_view text);

}  // namespace furrow::plan
