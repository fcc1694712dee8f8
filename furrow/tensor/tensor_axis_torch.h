// The ranks of a tensor axis as operations and blocks see them: each holds a part of the unit's parameters,
// and what they must exchange goes through here.  The seam: train/ has one over a group of ranks, tests one
// over threads.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "furrow/tensor/op_context.h"

namespace furrow::tensor {

// One collective over the axis.  Tensors are dense; both live until run() returns.
struct AxisCollective {
  enum class Op : uint8_t { kAllReduce, kReduceScatter, kAllGather };
  enum class Reduction : uint8_t { kSum, kMax };
  Op op = Op::kAllReduce;
  Reduction reduction = Reduction::kSum;  // of all_reduce; a reduce_scatter sums
  // all_reduce: `in` and `out` are one tensor.  reduce_scatter: the slices of all ranks, equal and one after
  // the other in rank order, and the own slice.  all_gather: the other way round.  float32, float64 (sums of
  // losses), bfloat16 or float16.
  at::Tensor in, out;
  int64_t bytes() const;  // of the whole: what is reduced, or is there after the gather
};

// Every rank makes the same calls in the same order; each returns when it is done, with the same bits on
// every rank where they have the same element.  One thread of a rank at a time.  Over one rank each gives
// back its argument.  Errors: those of peers and of the wire, on every rank.
class TensorAxis {
 public:
  virtual ~TensorAxis() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // The sum, or the largest, of every element; x itself when it is dense.
  at::Tensor all_reduce(const at::Tensor& x,
                        AxisCollective::Reduction reduction = AxisCollective::Reduction::kSum);
  // The sum's part along `dim`: [.., n, ..] -> [.., n / size, ..].  REQUIRES: size divides n.
  at::Tensor reduce_scatter(const at::Tensor& x, int64_t dim);
  // The parts of all ranks along `dim`: [.., n, ..] -> [.., n * size, ..].
  at::Tensor all_gather(const at::Tensor& x, int64_t dim);

  // Blocks until it is done.  For the functions above, and for an axis that stands before another.
  virtual void run(const AxisCollective& collective) = 0;
};

// Whether an operation shares its work over several ranks.
inline bool shared(const OpContext& context) { return context.axis != nullptr && context.axis->size() > 1; }

}  // namespace furrow::tensor
