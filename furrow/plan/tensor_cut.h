// The tensor axis: a model's spec as each of its ranks runs it, and which part of a whole tensor a rank has.
//
// A tensor is cut along one dim.  What is fused there, as the query, key and value rows of one matrix, is a
// run of segments; each is cut into `degree` parts of equal length, rounded up, and rank t has part t of
// every one, in their order.  Where the degree is no divisor, the last parts end in elements that are none of
// the whole.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "furrow/plan/model_spec.h"

namespace furrow::plan {

struct Instruction;

// The spec of one rank of a tensor axis, the same for all of them: an ordinary model whose parameters,
// borders, FLOPs and bytes are parts.  `degree` 1 is the whole.  Error{unimplemented}: refuses_tensor_cut().
// REQUIRES: a valid spec that is whole.
ModelSpec tensor_cut(const ModelSpec& whole, int degree);

// Why a model cannot be cut so: "unit blocks.0 (transformer_block) has 6 heads, which 4 does not divide"; ""
// where it can.
std::string refuses_tensor_cut(const ModelSpec& whole, int degree);

// How many ranks share the model that this is the part of.
int tensor_degree(const ModelSpec& spec);

// Declares the all-reduce of the gradients that are parts of a sum (Parameter::summed), of trained parameters
// alone, in place of one that is declared: in backward_weight; none where there are none.
void declare_gradient_sum(Unit* unit);

// The collectives over the tensor axis inside an instruction, in order; none where the axis has one rank.
std::vector<UnitCollective> collectives_in(const ModelSpec& spec, const Instruction& instruction);

// What each rank receives of a collective of so many bytes.
int64_t received_bytes(UnitCollective::Op op, int64_t bytes, int degree);

// Where a rank's part of a tensor lies in the whole.
struct TensorPlace {
  int axis = -1;                       // dim that is cut; -1: every rank has the whole
  std::vector<int64_t> segments = {};  // of the whole, along the dim
  int degree = 1;
  int rank = 0;
  bool cuts() const { return axis >= 0 && degree > 1; }
  friend bool operator==(const TensorPlace&, const TensorPlace&) = default;
};

// Of a parameter of a spec that tensor_cut() made, or of a whole one.
TensorPlace place_of(const ModelSpec& spec, const Parameter& parameter, int rank);

// A box of the whole whose elements lie one after the other in the part, in row-major order.
struct TensorBlock {
  int64_t begin = 0;  // its first element in the part
  Shape offset;       // its first element in the whole, per dim
  Shape extent;       // its size, per dim
  int64_t size() const { return num_elements(extent); }
  friend bool operator==(const TensorBlock&, const TensorBlock&) = default;
};

// Elements that follow one another in the part and in the whole.
struct TensorRun {
  int64_t begin = 0;  // in the part
  int64_t whole = 0;  // in the whole, row-major
  int64_t size = 0;
  friend bool operator==(const TensorRun&, const TensorRun&) = default;
};

// `part`: the shape that the rank has.
Shape whole_shape(const Shape& part, const TensorPlace& place);
// In the order of the part, all elements that are some of the whole; one block where nothing is fused and
// nothing left over.
std::vector<TensorBlock> blocks_of(const Shape& part, const TensorPlace& place);
// Those of the elements [begin, end) of the part.
std::vector<TensorRun> runs_of(const Shape& part, const TensorPlace& place, int64_t begin, int64_t end);

}  // namespace furrow::plan
