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
#include "furrow/plan/placement.h"
#include "furrow/plan/state_form.h"

namespace furrow::plan {

enum class ValueKind : uint8_t {
  kBatch,     // batch(m)              inputs, targets, weights, sample ids of microbatch m
  kAct,       // act(u,m)              output of unit u
  kSaved,     // saved(u,m)            what backward of unit u needs (its small autograd graph)
  kGrad,      // grad(u,m)             gradient with respect to act(u,m), of the *sum* of losses
  kDeferred,  // deferred(u,m)         weight-gradient work queued by backward_input
  kGradient,  // gradient(u,use,b,e)   flat gradient of unit u, use `use`, over microbatches [b,e)
  kTotal,     // total(u)              flat gradient of all uses: only for units with tied uses
  kLoss,  // loss(m), loss(m,h)    exact sums: loss, count, correct; of head h, the first where it is left out
  kSums,  // sums(v)               exact sums over microbatches: loss, count, correct, squares of the
          // gradients,
  //                       the first unit that is not finite, why to stop; of phase p v is 2p of the rank,
  //                       2p+1 of all
  kScale,  // scale(), scale(p)     gradient factor (1/count times clip coefficient), norm, finite verdict; of
           //                       phase p, the first where it is left out
  kParams,    // params(u,v)           flat parameters; v 0 before the step, 1 after
  kState,     // state(u,v)            flat optimizer state
  kGathered,  // gathered(u,g)         the whole of sharded parameters, as gather g of the unit in this
              // program brings it
  kSnapshot,  // snapshot(u)           copy of params, state and statistics for a checkpoint
  kBnStats,   // bn_stats(u,m)         what microbatch m says of the statistics of unit u
  kStats,     // stats(u,v)            statistics of unit u; v 0 before the step, 1 after; whole on every rank
  kLossScale,  // loss_scale(v)        what gradients are multiplied with on their way, where units compute in
               // float16; of phase p v is 2p before the step, 2p+1 after; the same on every rank
  kHosted,     // hosted(u,v)          of a unit whose optimizer is on the host, in memory there that a device
               // copies by itself: v 0 final(u), 1 what has been stepped, as blocks read it
  kLeaf,  // leaf(u,use,b,e)      gradient of one microbatch in float32, before it is rounded to the type in
          //                      which gradients are added and travel; only where that has 16 bits
  kWide,  // wide(u)              what the unit is stepped with in float32; only there
};
std::string_view to_string(ValueKind kind);

struct Value {
  ValueKind kind = ValueKind::kBatch;
  int32_t unit = -1;  // -1 where the kind has none
  int32_t index = 0;  // microbatch, version or use, by kind
  int32_t begin = 0;  // microbatch range of a gradient node; the head of a loss; else 0
  int32_t end = 0;
  Part part = Part::kWhole;  // of flat buffers: what the rank holds of it (plan/slices.h)
  friend auto operator<=>(const Value&, const Value&) = default;
};
std::string to_string(const Value& value);  // "gradient(3,0,[0,2))", "gradient(3,0,[0,2))/shard"
Value parse_value(std::string_view text);   // Error{invalid_argument}

using KindSet = uint32_t;  // a bit for each ValueKind
inline constexpr size_t kValueKinds = 20;
constexpr KindSet kind_bit(ValueKind kind) { return KindSet{1} << static_cast<unsigned>(kind); }

// clang-format off
// What each reads -> writes, in this order.  What stands in [] is there where it applies.  A step of a model
// with phases does all of it for one phase after the other; of a unit, in the phase whose head its gradient
// comes from; forward in the first one that needs it.
//   input     act(u-1,m), or of the unit that the model says; batch(m) where that is none
//   weights   params(u,0) if the unit owns parameters, then params(owner,0) of each unit whose parameters it ties,
//             params(owner,1) of those it borrows from a phase before;
//             under ZeRO-3 gathered(u,g) and gathered(owner,g) in their place
//   inputs    input; batch(m) too where that is another's output: the sample ids count their random numbers; then
//             weights
//   final(u)  total(u) for a unit with tied uses, else gradient(u,0,[0,k)), k the number of microbatches
//   /own /step  the rank's smallest part, and the part that it steps (plan/placement.h); no mark: whole, or any
//
//   load m               -> batch(m)
//   forward u m          inputs -> act(u,m) [saved(u,m)]    no saved: evaluation, recompute, nothing to train below
//                        with statistics: writes bn_stats(u,m) in training, reads stats(u,0) in evaluation
//   recompute u m        inputs -> saved(u,m)
//   loss m               act(last,m) [act(teacher,m)] batch(m) [loss_scale(2p)] -> grad(last,m) loss(m); of a model with
//                        several heads one each, -> loss(m,h); p is the phase of the head
//   evaluate m           act(last,m) batch(m) -> loss(m); the heads of phase 0
//   backward_input u m   grad(u,m) saved(u,m) inputs -> [grad(u-1,m)] [deferred(u,m)]
//                                                           no grad: nothing to train below; no deferred: no parameters
//   backward_weight u m  deferred(u,m) input -> [gradient(u,0,[m,m+1))] gradient(owner,use,[m,m+1)) of each tied use
//                                                           where gradients have 16 bits, leaf in place of gradient
//   round u m            leaf(u,use,[m,m+1)) -> gradient(u,use,[m,m+1))
//   add u                gradient(u,use,[b,s)) gradient(u,use,[s,e)) -> gradient(u,use,[b,e)), in place of the first
//   reduce_grads u axis  the rank's nodes of one use -> the nodes that they and those of the group add up to, cut to the
//                        shard (dp_shard) or piece (dp_replicate); may read nothing, in a round without a microbatch
//   add_tied u           gradient(u,0,[0,k)) gradient(u,1,[0,k)) ... -> total(u), in place of the first
//   gather_grads u axis  final(u)/piece -> final(u)/step, in place            over dp_replicate
//   gather_params u axis params(u,0)/shard -> gathered(u,g)                   ZeRO-3, over dp_shard; params(u,1) for
//                        who borrows it
//   measure              [final(u)/step of the phase's units] loss(m) of the rank's microbatches -> sums(2p)
//                                                           of final(u) it measures the rank's own part alone
//   reduce_scalar axis   sums(2p) -> sums(2p+1)                                 over dp, where there is more than one rank
//   gather_stats axis    bn_stats of the rank's microbatches, all units -> those of the others'; in order of m, then u
//                                                           over dp, where there is more than one rank
//   clip                 sums(last) [loss_scale(2p)] -> scale(p)
//   update_scale         scale(p) loss_scale(2p) -> loss_scale(2p+1), in place   where units compute in float16
//   widen u              final(u)/step -> wide(u)/step
//   step u               params(u,0) [state(u,0)/step] final(u)/step scale() -> params(u,1)/step [state(u,1)/step], in place
//                                                           where gradients have 16 bits, wide(u)/step in place of
//                                                           final(u)/step
//                        of a unit whose optimizer is on the host it reads state(u,0)/step hosted(u,0)/step scale()
//                        and writes state(u,1)/step hosted(u,1)/step, in place, between
//   copy_down u          final(u)/step -> hosted(u,0)/step (of wide(u)/step too)
//   copy_up u            params(u,0) hosted(u,1)/step -> params(u,1)/step, in place
//   gather_updated u axis params(u,1)/shard -> params(u,1), in place          ZeRO-1 and 2, over dp_shard
//   fold_stats u         stats(u,0) bn_stats(u,0) ... bn_stats(u,k-1) scale() -> stats(u,1), in place
//   send u [m] peer      one value, to a pp coordinate: act(u,m) of a stage's last unit, grad(u,m) of the unit before
//                        its first, or of parameters that another stage ties gradient(u,use,[0,k))/own to their owner
//                        and params(u,1) to who uses them
//   recv u [m] peer      -> the same value, sent by that pp coordinate; params(u,0) -> params(u,1), in place
//   snapshot u           params(u,0) [state(u,0)] [stats(u,0), on the first data rank] -> snapshot(u)/own
//   swap_average u       params(u,0) state(u,0)/step -> params(u,1)/step state(u,1)/step, in place: the weights and
//                        their average change places; so do, where statistics are folded, stats(u,0) -> stats(u,1)
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
  kReduceGrads,
  kAddTied,
  kGatherGrads,
  kGatherParams,
  kMeasure,
  kReduceScalar,
  kGatherStats,
  kClip,
  kUpdateScale,
  kStep,
  kGatherUpdated,
  kFoldStats,
  kSnapshot,
  kSend,
  kRecv,
  kSwapAverage,
  kCopyDown,
  kCopyUp,
  kRound,
  kWiden,
};

// Communication runs beside the rest: collectives in program order, which is the same on all ranks of a
// group; transfers (send, recv) each on the lane of its peer and direction, in program order there.  So do
// copies between a device and its host (copy_down, copy_up), one after the other on a lane of their own.
enum class Stream : uint8_t { kCompute, kCopy, kComm };

// When an instruction runs: always, or only if the verdict of scale() is finite.  The verdict is that of all
// ranks.
enum class Predicate : uint8_t { kAlways, kFinite };

struct Instruction {
  Op op = Op::kLoad;
  Stream stream = Stream::kCompute;
  Predicate predicate = Predicate::kAlways;
  GroupAxis axis = GroupAxis::kNone;  // of communication
  int32_t peer = -1;                  // pp coordinate of a transfer's other end
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
  bool has_axis;  // communication
  bool has_peer;  // a transfer: it has a microbatch where its value has one
  KindSet reads;
  KindSet writes;
};
const OpInfo& op_info(Op op);
const OpInfo* find_op(std::string_view name);  // nullptr when unknown
std::vector<Op> all_ops();

// Between a device and its host.
constexpr bool is_copy(Op op) { return op == Op::kCopyDown || op == Op::kCopyUp; }

// The microbatch that a transfer of `value` names: -1 for those of parameters.
int32_t transfer_microbatch(const Value& value);

// The value that `written` of this instruction may replace in its slot; nullptr: none, it needs a slot of its
// own.  Where the two are different parts, the smaller lies where it lies in the larger.
const Value* in_place_source(const Instruction& instruction, const Value& written);

// "backward_input u1 m0".
std::string to_string(const Instruction& instruction);

inline Value batch_value(int32_t m) { return {ValueKind::kBatch, -1, m}; }
inline Value act_value(int32_t u, int32_t m) { return {ValueKind::kAct, u, m}; }
inline Value saved_value(int32_t u, int32_t m) { return {ValueKind::kSaved, u, m}; }
inline Value grad_value(int32_t u, int32_t m) { return {ValueKind::kGrad, u, m}; }
inline Value deferred_value(int32_t u, int32_t m) { return {ValueKind::kDeferred, u, m}; }
inline Value gradient_value(int32_t u, int32_t use, int32_t begin, int32_t end, Part part = Part::kWhole) {
  return {ValueKind::kGradient, u, use, begin, end, part};
}
inline Value leaf_value(int32_t u, int32_t use, int32_t microbatch) {
  return {ValueKind::kLeaf, u, use, microbatch, microbatch + 1};
}
inline Value wide_value(int32_t u, Part part = Part::kWhole) { return {ValueKind::kWide, u, 0, 0, 0, part}; }
inline Value total_value(int32_t u, Part part = Part::kWhole) {
  return {ValueKind::kTotal, u, 0, 0, 0, part};
}
inline Value sums_value(int32_t version, int32_t phase = 0) {
  return {ValueKind::kSums, -1, 2 * phase + version};
}
inline Value gathered_value(int32_t u, int32_t gather) { return {ValueKind::kGathered, u, gather}; }
inline Value loss_value(int32_t m, int32_t head = 0) { return {ValueKind::kLoss, -1, m, head}; }
inline Value scale_value(int32_t phase = 0) { return {ValueKind::kScale, -1, phase}; }
inline Value params_value(int32_t u, int32_t version, Part part = Part::kWhole) {
  return {ValueKind::kParams, u, version, 0, 0, part};
}
inline Value state_value(int32_t u, int32_t version, Part part = Part::kWhole) {
  return {ValueKind::kState, u, version, 0, 0, part};
}
inline Value bn_stats_value(int32_t u, int32_t m) { return {ValueKind::kBnStats, u, m}; }
inline Value stats_value(int32_t u, int32_t version) { return {ValueKind::kStats, u, version}; }
inline Value loss_scale_value(int32_t version, int32_t phase = 0) {
  return {ValueKind::kLossScale, -1, 2 * phase + version};
}
inline Value hosted_value(int32_t u, int32_t version, Part part = Part::kWhole) {
  return {ValueKind::kHosted, u, version, 0, 0, part};
}
// Units that have hosted values at a time: one is stepped while what comes down for the next one, and what
// goes up of the one before, take turns in the other slot.
inline constexpr int kUnitsOnHost = 2;
inline Value snapshot_value(int32_t u, Part part = Part::kWhole) {
  return {ValueKind::kSnapshot, u, 0, 0, 0, part};
}

// A home for values of one kind (gradient and total count as one, leaf and wide too).  Slots of gradients, of
// gathered parameters and of hosted values are flat buffers of exactly `bytes`; the others hold what the
// executor puts there.
struct Slot {
  MemoryKind kind = MemoryKind::kOther;
  int64_t bytes = 0;  // as planned, without workspace inside operations
  friend bool operator==(const Slot&, const Slot&) = default;
};

struct SlotAssignment {
  Value value;
  int32_t slot = 0;
  int64_t offset =
      0;  // bytes: where the value begins in its slot; 0 but for a part that lies in a larger one
  friend bool operator==(const SlotAssignment&, const SlotAssignment&) = default;
};

struct Program {
  std::string name;  // "train", "evaluate", "predict", "save", "average"
  Placement placement;
  StateForms states;               // of the optimizer, in the order of its flat buffers
  std::vector<std::string> units;  // names, by index
  std::vector<int64_t>
      microbatch_sizes;        // samples in each microbatch of the global batch, on every rank alike
  std::vector<Value> inputs;   // exist before the first instruction: params, state
  std::vector<Value> outputs;  // live after the last
  std::vector<Instruction> instructions;
  std::vector<Slot> slots;                  // empty before assign_buffers
  std::vector<SlotAssignment> assignments;  // sorted by value
  friend bool operator==(const Program&, const Program&) = default;

  int64_t samples() const;                                  // of the global batch
  int32_t slot_of(const Value& value) const;                // Error{internal} when it has none
  const SlotAssignment& home_of(const Value& value) const;  // the same, with the offset
};

// A form a person can read (docs/concepts/program.md); parse_program(to_text(p)) == p.  Malformed text:
// Error{invalid_argument} with the line.  Parsing checks the form alone, verify() checks the sense.
// to_text REQUIRES: names are single words; fields that a value or an operation lacks are -1 or 0; sorted
// assignments.
std::string to_text(const Program& program);
Program parse_program(std::string_view text);

}  // namespace furrow::plan
