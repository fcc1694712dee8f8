// What ranks of a tensor axis exchange around a layer of several products, as operations of their own: where
// a linear layer of one product exchanges inside (linear.cc), one with an adapter does here.  Sums over the
// ranks are of float32 and rounded once (LinearLayer).  Internal to tensor.  REQUIRES: shared(context).
#pragma once

#include <ATen/core/Tensor.h>

#include "furrow/tensor/ops_torch.h"

namespace furrow::tensor {

// Cut::kColumns and kPositionsToColumns: what such a layer reads, whole, and as LinearLayer has it: `x` is
// float32, whose gradient is the sum over the ranks, of the latter cut the part of the own positions; of 16
// bits it has no numbers of its own, which `read` has.
struct WholeInput {
  at::Tensor x, read;
};
WholeInput whole_input(const at::Tensor& x, Cut cut, OpContext& context);
// Its numbers in float32, with that gradient.
at::Tensor widened(const WholeInput& input, OpContext& context);

// Cut::kRows and kRowsToPositions: the sum of all ranks' parts, float32, plus the layer's bias, which may be
// absent; of the weight's type.  The part becomes the sum's memory: nobody else holds it.
at::Tensor summed_parts(const at::Tensor& part, const LinearLayer& layer, OpContext& context);

}  // namespace furrow::tensor
