// A program: one step of one shape, as a flat list of instructions.  Plain data; the same list is verified,
// printed and executed.  Order within a stream plus values is the only synchronisation.
//
// Values are versioned and written exactly once.  Their homes (slots) are assigned by a later pass
// (plan/buffers.h).
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
  kScale,     // scale()               gradient factor (1/count times clip coefficient), norm, finite verdict
  kParams,    // params(u,v)           flat parameters; v 0 before the step, 1 after
  kState,     // state(u,v)            flat optimizer state
  kSnapshot,  // snapshot(u)           copy of params and state for a checkpoint
};
std::string_view to_string(ValueKind kind);

struct Value {
  ValueKind kind = ValueKind::kBatch;
  int32_t unit = -1;  // -1 where the kind has none
  int32_t index = 0;  // microbatch, version or use, by kind
  int32_t begin = 0;  // microbatch range of a gradient node, else 0
  int32_t end = 0;
  friend auto operator<=>(const Value&, const Value&) = default;
};
std::string to_string(const Value& value);  // "gradient(3,0,[0,2))"
Value parse_value(std::string_view text);   // Error{invalid_argument}

using KindSet = uint32_t;  // a bit for each ValueKind
inline constexpr size_t kValueKinds = 12;
constexpr KindSet kind_bit(ValueKind kind) { return KindSet{1} << static_cast<unsigned>(kind); }

// clang-format off
// What each reads -> writes, in this order.  What stands in [] is there where it applies.
//   input     act(u-1,m), or batch(m) for the first unit
//   inputs    input; batch(m) too for later units: the sample ids count their random numbers; then params(u,0) if the
//             unit owns parameters, and params(owner,0) of each unit whose parameters it ties
//   final(u)  total(u) for a unit with tied uses, else gradient(u,0,[0,k)), k the number of microbatches
//
//   load m               -> batch(m)
//   forward u m          inputs -> act(u,m) [saved(u,m)]    no saved: evaluation, recompute, nothing to train below
//   recompute u m        inputs -> saved(u,m)
//   loss m               act(last,m) batch(m) -> grad(last,m) loss(m)
//   evaluate m           act(last,m) batch(m) -> loss(m)
//   backward_input u m   grad(u,m) saved(u,m) inputs -> [grad(u-1,m)] [deferred(u,m)]
//                                                           no grad: nothing to train below; no deferred: no parameters
//   backward_weight u m  deferred(u,m) input -> [gradient(u,0,[m,m+1))] gradient(owner,use,[m,m+1)) of each tied use
//   add u                gradient(u,use,[b,s)) gradient(u,use,[s,e)) -> gradient(u,use,[b,e)), in place of the first
//   add_tied u           gradient(u,0,[0,k)) gradient(u,1,[0,k)) ... -> total(u), in place of the first
//   clip                 final(u) of all units, loss(m) of all microbatches -> scale()
//   step u               params(u,0) [state(u,0)] final(u) scale() -> params(u,1) [state(u,1)], in place
//   snapshot u           params(u,0) [state(u,0)] -> snapshot(u)
// clang-format on
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
  KindSet reads;
  KindSet writes;
};
const OpInfo& op_info(Op op);
const OpInfo* find_op(std::string_view name);  // nullptr when unknown
std::vector<Op> all_ops();

// The value that `written` of this instruction may replace in its slot; nullptr: none, it needs a slot of its
// own.
const Value* in_place_source(const Instruction& instruction, const Value& written);

// "backward_input u1 m0".
std::string to_string(const Instruction& instruction);

inline Value batch_value(int32_t m) { return {ValueKind::kBatch, -1, m}; }
inline Value act_value(int32_t u, int32_t m) { return {ValueKind::kAct, u, m}; }
inline Value saved_value(int32_t u, int32_t m) { return {ValueKind::kSaved, u, m}; }
inline Value grad_value(int32_t u, int32_t m) { return {ValueKind::kGrad, u, m}; }
inline Value deferred_value(int32_t u, int32_t m) { return {ValueKind::kDeferred, u, m}; }
inline Value gradient_value(int32_t u, int32_t use, int32_t begin, int32_t end) {
  return {ValueKind::kGradient, u, use, begin, end};
}
inline Value total_value(int32_t u) { return {ValueKind::kTotal, u}; }
inline Value loss_value(int32_t m) { return {ValueKind::kLoss, -1, m}; }
inline Value scale_value() { return {ValueKind::kScale}; }
inline Value params_value(int32_t u, int32_t version) { return {ValueKind::kParams, u, version}; }
inline Value state_value(int32_t u, int32_t version) { return {ValueKind::kState, u, version}; }
inline Value snapshot_value(int32_t u) { return {ValueKind::kSnapshot, u}; }

// A home for values of one kind (gradient and total count as one).  Gradient slots are flat float32 buffers
// of exactly `bytes`; the others hold what the executor puts there.
struct Slot {
  MemoryKind kind = MemoryKind::kOther;
  int64_t bytes = 0;  // as planned, without workspace inside operations
  friend bool operator==(const Slot&, const Slot&) = default;
};

struct SlotAssignment {
  Value value;
  int32_t slot = 0;
  friend bool operator==(const SlotAssignment&, const SlotAssignment&) = default;
};

struct Program {
  std::string name;                       // "train", "evaluate", "save"
  std::vector<std::string> units;         // names, by index
  std::vector<int64_t> microbatch_sizes;  // samples in each
  std::vector<Value> inputs;              // exist before the first instruction: params, state
  std::vector<Value> outputs;             // live after the last
  std::vector<Instruction> instructions;
  std::vector<Slot> slots;                  // empty before assign_buffers
  std::vector<SlotAssignment> assignments;  // sorted by value
  friend bool operator==(const Program&, const Program&) = default;

  int64_t samples() const;
  int32_t slot_of(const Value& value) const;  // Error{internal} when it has none
};

// A form a person can read (docs/concepts/program.md); parse_program(to_text(p)) == p.  Malformed text:
// Error{invalid_argument} with the line.  Parsing checks the form alone, verify() checks the sense.
// to_text REQUIRES: names are single words; fields that a value or an operation lacks are -1 or 0; sorted
// assignments.
std::string to_text(const Program& program);
Program parse_program(std::string_view text);

}  // namespace furrow::plan
