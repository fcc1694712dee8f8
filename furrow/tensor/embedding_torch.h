// What both implementations of a table's lookup ask of their arguments.  Internal to tensor.
#pragma once

#include <ATen/core/Tensor.h>

#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/ops_torch.h"

namespace furrow::tensor {

// What embedding_cut looks up, and what this rank adds to the rows that it has, [batch, time, width], before
// they are summed; undefined: nothing.
struct CutTables {
  Param tokens, positions;
  int64_t vocabulary = 0;
  at::Tensor beside = {};
};

// Error{invalid_argument}: an id outside the vocabulary, named.  REQUIRES: dense ids on the host.
void check_ids(const at::Tensor& ids, int64_t vocabulary);

// FURROW_CHECK of shapes, and of context.positions where there are some.
void check_tables(const at::Tensor& ids, const Param& positions, const OpContext& context);

// embedding_cut() of tables without adapters.  REQUIRES: shared(context).
at::Tensor embedding_cut(const at::Tensor& ids, const CutTables& tables, OpContext& context);
// Which row of part `rank` of a table, of so many rows, each id has, and which have none: of those the row is
// the first.  On the device.
struct OwnRows {
  at::Tensor rows, absent;  // [batch, time] and [batch, time, 1]
};
OwnRows own_rows(const at::Tensor& ids, int64_t rows, int rank, const at::Device& device);
// y with a backward that gives the gradients of tables.tokens (none) and tables.beside, where there is one.
at::Tensor with_rows_backward(const at::Tensor& y, const CutTables& tables, Backward backward);
// The position of every token in its document, or in its row: [batch, time].
at::Tensor position_ids(const at::Tensor& ids, const OpContext& context);

}  // namespace furrow::tensor
