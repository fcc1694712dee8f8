// The counters of a layer's dropout, from the operation's context.  Internal to tensor; torch-free.
#pragma once

#include <string_view>

#include "furrow/tensor/kernels/dropout.h"
#include "furrow/tensor/op_context.h"

namespace furrow::tensor {

// Holds a pointer to context.sample_ids, which live until backward_weight.  `per_sample`: the elements of a
// sample that are here; over a tensor axis they are its part of the sample, the parts in rank order.
kernels::DropoutMask dropout_mask(double p, std::string_view stream, int64_t per_sample,
                                  const OpContext& context);

}  // namespace furrow::tensor
