// What a network is, as data: units and who reads whom.  No tensors, no libtorch.
//
// A unit is the smallest thing that is scheduled, sharded, recomputed and communicated: one block, or several
// small ones merged.  Unit i reads the output of unit i-1 and unit 0 the batch, unless they say otherwise: a
// network may be several chains, as those of a teacher and its student.  Values are immutable and thread
// safe.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "furrow/base/array.h"

namespace furrow::plan {

inline constexpr int64_t kAlign = 16;  // elements: 64 bytes of float32

// What blocks compute in: float32, bfloat16 or float16.
constexpr bool is_number(DType type) {
  return type == DType::kF32 || type == DType::kBF16 || type == DType::kF16;
}

// How a parameter starts.  Element i of parameter P is drawn from word i of Philox(seed, kInit, full name of
// P).
struct Init {
  enum class Kind { kZeros, kOnes, kUniform, kNormal };
  Kind kind = Kind::kZeros;
  double scale = 0;  // kUniform: U(-scale, scale); kNormal: N(0, scale)
  friend bool operator==(const Init&, const Init&) = default;
};

// Which parameters share an optimizer rule.  Norms and biases do not decay.
enum class ParameterGroup : uint8_t { kDecay, kNoDecay };

// What a recipe says of one parameter beside the rest ([optimizer] groups).
struct ParameterRule {
  bool frozen = false;                 // it has no gradient and no optimizer state, and stays as it is
  double lr_scale = 1;                 // times the learning rate of the step
  std::optional<double> weight_decay;  // none: the optimizer's, or 0, by group
  std::optional<double> beta1 = {}, beta2 = {}, eps = {}, momentum = {};  // none: the optimizer's
  std::string optimizer = {};  // a row of optimizer_spec.cc where a run has several; "": it has one
  friend bool operator==(const ParameterRule&, const ParameterRule&) = default;
};

struct Parameter {
  std::string
      name;  // full logical name, "blocks.0.attention.qkv.weight": the name in checkpoints and exports
  Shape shape;
  DType dtype = DType::kF32;
  Init init;
  std::string tied_to;   // full name of the owner in an earlier unit, or ""; a tied parameter has no storage
                         // of its own
  int tensor_axis = -1;  // dim that a tensor axis cuts, -1: the whole on every rank of it
  // Lengths along that dim of what is cut each by itself, as queries, keys and values of one matrix; empty:
  // one segment.  Rank t of n holds part t of every segment, one after the other.  A part is length / n
  // elements, rounded up: where n is no divisor, the last parts end in zeros, which belong to no element of
  // the whole and never have a gradient.
  std::vector<int64_t> tensor_segments = {};
  // Over a tensor axis, of one that it leaves whole: each rank's gradient is a part of a sum.
  bool summed = false;
  ParameterGroup group = ParameterGroup::kDecay;
  ParameterRule rule = {};  // of an owner; a tied parameter follows its owner
  bool whole = false;       // no slice cuts it: its optimizer needs all of it
  bool adapter = false;     // of an Adapter: models that a run starts from may lack it
  // Of a tied one: it is only read, as the phase that steps its owner has left it, and this use gives it no
  // gradient.
  bool borrowed = false;

  bool tied() const { return !tied_to.empty(); }
  int64_t size() const { return num_elements(shape); }
};

// A running tensor beside the parameters, as batch norm's mean of what it has seen: training folds what each
// microbatch says into it, evaluation reads it.  No gradient, no optimizer; the same on every rank.
struct Statistic {
  enum class Fold : uint8_t {
    kAverage,  // float32: (1 - momentum) * running + momentum * the microbatch's, in microbatch order
    kCount,    // int64: one more for each microbatch
  };
  std::string name;  // full logical name, as in checkpoints and exports: "layer1.0.bn1.running_mean"
  Shape shape;
  Fold fold = Fold::kAverage;
  double momentum = 0.1;
  double initial = 0;

  DType dtype() const { return fold == Fold::kCount ? DType::kI64 : DType::kF32; }
  int64_t size() const { return num_elements(shape); }
};

// Two thin matrices beside a weight W, which then counts as W + scale * B A: indices into Unit::parameters of
// W [out, in], A [rank, in] and B [out, rank].  Of a convolution W is [out, channels, k, k], A [rank,
// channels, k, k] and B [out, rank, 1, 1]; a table W [rows, width] counts as W + scale * (B A)^T, of
// A [rank, rows] and B [width, rank].
struct Adapter {
  int weight = 0, a = 0, b = 0;
  bool table = false;
  double scale = 1;
  double dropout = 0;  // of what A reads
  // As Unit's, of which they are parts.  What several adapters of a unit read counts with the first.
  int64_t deferred_bytes = 0, kept_saved_bytes = 0, kept_grad_bytes = 0;
  int64_t whole_deferred_bytes = 0;  // as TensorCut's
};

using Attribute = std::variant<bool, int64_t, double, std::string>;
using Attributes = std::map<std::string, Attribute>;

// A tensor that crosses a unit border.  Dim 0 is the microbatch, written -1.
struct TensorSpec {
  DType dtype = DType::kF32;
  Shape shape;
  int tensor_axis =
      -1;             // dim that a tensor axis cuts, as one segment of a parameter; -1: whole on every rank
  int64_t whole = 0;  // of a part (plan/tensor_cut.h): the length of that dim in the whole; else 0
  friend bool operator==(const TensorSpec&, const TensorSpec&) = default;
  int64_t bytes_per_sample() const;
};

// Per sample, one multiply-add counts two.
struct Flops {
  double forward = 0;
  double backward_input = 0;
  double backward_weight = 0;
  friend bool operator==(const Flops&, const Flops&) = default;
};

// A collective over the tensor axis that a unit's block performs itself, at any degree above 1.
struct UnitCollective {
  enum class Phase : uint8_t {
    kForward,  // and recompute
    kBackwardInput,
    kBackwardWeight,
    kLoss,  // of a last unit whose output is cut: `loss` and `evaluate`
  };
  enum class Op : uint8_t { kAllReduce, kReduceScatter, kAllGather };
  Phase phase = Phase::kForward;
  Op op = Op::kAllReduce;
  // Of the tensor that is reduced, or that is whole after the gather; the same at any degree.
  int64_t bytes_per_sample = 0;
  int64_t fixed_bytes = 0;  // beside them, of any microbatch
  int64_t bytes(int64_t samples) const { return bytes_per_sample * samples + fixed_bytes; }
  bool with_input_gradient = false;  // only where backward goes on to the unit before
  friend bool operator==(const UnitCollective&, const UnitCollective&) = default;
};
std::string_view name_of(UnitCollective::Phase phase);  // "backward_input"
std::string_view name_of(UnitCollective::Op op);        // "reduce_scatter"

// Memory that one call of a block needs while it runs, besides what it reads, keeps and gives: float32 copies
// of what it has in 16 bits, gradients between its operations; below 0 where it lets go of more on its way.
struct Scratch {
  int64_t sample_bytes = 0;  // per sample
  int64_t fixed_bytes = 0;   // beside them, of any microbatch
  int64_t bytes(int64_t samples) const { return sample_bytes * samples + fixed_bytes; }
  friend bool operator==(const Scratch&, const Scratch&) = default;
};

// What a unit's calls hold for a sample, as Unit has it.
struct CallBytes {
  int64_t saved_bytes = 0, deferred_bytes = 0, kept_saved_bytes = 0, kept_grad_bytes = 0;
  Scratch forward_scratch = {}, backward_scratch = {}, weight_scratch = {};
  friend bool operator==(const CallBytes&, const CallBytes&) = default;
};

// What cuts a unit over a tensor axis beside Parameter::tensor_axis and its borders'.  FLOPs divide where a
// parameter is cut, but for whole_flops.
struct TensorCut {
  bool possible = false;  // the block runs on a part
  // What the degree must divide: {"heads", 12}.
  struct Count {
    std::string name;
    int64_t count = 0;
    friend bool operator==(const Count&, const Count&) = default;
  };
  std::vector<Count> counts;
  // Of saved_bytes and deferred_bytes, what every rank keeps whole; of Unit::flops, what every rank does.
  int64_t whole_saved_bytes = 0, whole_deferred_bytes = 0;
  Flops whole_flops = {};
  // By degree, what the calls of one rank's part hold, where that is known better than by division.
  std::map<int, CallBytes> calls = {};
  friend bool operator==(const TensorCut&, const TensorCut&) = default;
};
inline constexpr int32_t kUnitBefore = -2;
inline constexpr int32_t kFromBatch = -1;

struct Unit {
  std::string name;  // "conv1", "blocks.0"
  std::string kind;  // a row of models/kinds.cc; nn/ has exactly one block for it
  Attributes attributes;
  // What its block computes in: kF32, or kBF16 or kF16 where parameters have a copy of that type beside the
  // float32 masters that the optimizer steps (models/precision.h).
  DType compute = DType::kF32;
  bool offload = false;  // masters, of any type, and optimizer state lie on the host, which steps them
  std::vector<Parameter> parameters;
  std::vector<Statistic> statistics;  // only of a unit with parameters of its own
  std::vector<Adapter> adapters;
  TensorSpec input, output;
  Flops flops;
  int64_t saved_bytes = 0;     // per sample, kept from forward to backward_input besides input and output
  int64_t deferred_bytes = 0;  // per sample, kept from backward_input to backward_weight besides the input
  // Of deferred_bytes, what backward_input does not make: what forward saved already, and the gradient of the
  // output as it came.
  int64_t kept_saved_bytes = 0, kept_grad_bytes = 0;
  // Of forward (and recompute), of backward_input, of backward_weight, and of a loss of its output.
  Scratch forward_scratch, backward_scratch, weight_scratch, loss_scratch;
  TensorCut tensor;
  std::vector<UnitCollective> collectives;  // those of a phase in order; none over an axis of one rank
  int tensor_degree = 1;         // this is the part of one rank of so many; attributes are those of the whole
  int32_t source = kUnitBefore;  // whose output it reads: an earlier unit's, or kFromBatch
  bool detached = false;         // no gradient goes to what it reads
  bool inference = false;  // it runs as in evaluation while others train: no dropout, running statistics

  int64_t parameter_count() const;  // own ones: without tied ones
};

// Where a loss is taken.
struct Head {
  int32_t unit = 0;             // whose output it judges
  int32_t phase = 0;            // the gradients that come from it are stepped with at the end of this phase
  int32_t teacher = -1;         // in training it is compared with the output of this unit too; -1: none
  std::optional<double> label;  // what stands for the target of every sample; none: the batch's
};

struct ModelSpec {
  std::string architecture;  // a row of models/architectures.cc
  std::vector<Unit> units;
  int64_t alignment = kAlign;  // elements: what parameters start on in flat buffers, a divisor of the grid
  // In which gradients are added and travel: of 16 bits, every node of their tree is rounded to it.
  DType reduce = DType::kF32;
  bool averages_statistics = false;  // what training folds is kept twice: as it runs, and its average ([ema])
  std::vector<Head> heads;           // by phase; none: one, of the last unit
  std::vector<std::string> phases;   // names of the phases of a step; none: there is one
  int64_t parameter_count() const;   // tied ones once
};

// Throws Error{invalid_argument}: empty, duplicate names, borders that do not match, a tie to something that
// is not an earlier unit's own parameter of the same shape, heads and phases that do not fit (topology.h).
void validate(const ModelSpec& spec);

template <class T>
T attribute(const Unit& unit, const std::string& key);  // Error{internal} when absent or of another type

extern template bool attribute<bool>(const Unit&, const std::string&);
extern template int64_t attribute<int64_t>(const Unit&, const std::string&);
extern template double attribute<double>(const Unit&, const std::string&);
extern template std::string attribute<std::string>(const Unit&, const std::string&);

}  // namespace furrow::plan
