// What both implementations of a table's lookup ask of their arguments.  Internal to tensor.
#pragma once

#include <ATen/core/Tensor.h>

#include "furrow/tensor/ops_torch.h"

namespace furrow::tensor {

// Error{invalid_argument}: an id outside the vocabulary, named.  REQUIRES: dense ids on the host.
void check_ids(const at::Tensor& ids, int64_t vocabulary);

// FURROW_CHECK of shapes, and of context.positions where there are some.
void check_tables(const at::Tensor& ids, const Param& positions, const OpContext& context);

// The position of every token in its document, or in its row: [batch, time].
at::Tensor position_ids(const at::Tensor& ids, const OpContext& context);

}  // namespace furrow::tensor
