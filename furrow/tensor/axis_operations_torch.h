// What ranks of a tensor axis exchange around a layer of several products, as operations of their own: where
// a linear layer of one product exchanges inside (linear.cc), one with an adapter does here.  Sums over the
// ranks are of float32 and rounded once; what each rank adds to them has been rounded to the type of the
// unit.  Internal to tensor.  REQUIRES: shared(context).
#pragma once

#include <ATen/core/Tensor.h>

#include "furrow/tensor/ops_torch.h"

namespace furrow::tensor {

// Cut::kColumns and kPositionsToColumns: what such a layer reads, whole.  Its gradient is the sum over the
// ranks, of the latter the part of the own positions.
at::Tensor whole_input(const at::Tensor& x, Cut cut, OpContext& context);

// Cut::kRows and kRowsToPositions: the sum of all ranks' parts, plus the bias, which may be absent.  The part
// becomes the sum's memory: nobody else holds it.
at::Tensor summed_parts(const at::Tensor& part, const Param& bias, Cut cut, OpContext& context);

}  // namespace furrow::tensor
