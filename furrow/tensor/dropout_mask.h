// The counters of a layer's dropout, from the operation's context.  Internal to tensor; torch-free.
#pragma once

#include <string_view>

#include "furrow/tensor/kernels/dropout.h"
#include "furrow/tensor/op_context.h"

namespace furrow::tensor {

// Holds a pointer to context.sample_ids, which live until backward_weight.
kernels::DropoutMask dropout_mask(double p, std::string_view stream, const OpContext& context);

}  // namespace furrow::tensor
