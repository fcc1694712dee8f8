#include "furrow/tensor/kernels/embedding.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <utility>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/embedding_torch.h"
#include "furrow/tensor/half_torch.h"
#include "furrow/tensor/operations_torch.h"
#include "furrow/tensor/tensor_axis_torch.h"

namespace furrow::tensor {
namespace {

// A token's position in its document picks its vector: [batch, time], each below the rows of the table.
void check_positions(std::span<const int64_t> positions, const at::Tensor& ids, const Param& table) {
  FURROW_CHECK(positions.size() == static_cast<size_t>(ids.numel()), "a position for every token");
  const int64_t rows = table.leaf.size(0);
  FURROW_CHECK(std::ranges::all_of(positions, [rows](int64_t p) { return p >= 0 && p < rows; }),
               "a position beyond the table");
}

// The gradient of a table of `rows` rows, of which each of `count` positions took one.
template <class T>
void add_rows(const at::Tensor& gradient, kernels::EmbeddingBackward<T> args, int threads) {
  const at::Tensor dy = gradient.detach().contiguous();
  args.columns = dy.size(-1);
  args.count = dy.numel() / args.columns;
  args.dout = numbers<T>(dy);
  kernels::embedding_backward(args, threads);
}

void table_gradient(const at::Tensor& gradient, const int64_t* ids, int64_t rows, float* out, int threads,
                    int64_t first = 0) {
  by_type(gradient.scalar_type(), [&]<class T>(T) {
    kernels::EmbeddingBackward<T> args;
    args.ids = ids;
    args.rows = rows;
    args.dtable = out;
    args.first = first;
    add_rows(gradient, args, threads);
  });
}

void defer_tables(const at::Tensor& ids, const Param& tokens, const Param& positions,
                  const at::Tensor& gradient, const OpContext& context, int64_t first = 0) {
  GradientSink* const sink = context.sink;
  const int threads = context.threads;
  sink->defer(tokens.index, [=, vocabulary = tokens.leaf.size(0)](float* out) {
    table_gradient(gradient, ids.const_data_ptr<int64_t>(), vocabulary, out, threads, first);
  });
  if (!positions.defined()) return;
  if (!context.positions.empty()) {
    sink->defer(positions.index, [=, at = context.positions, rows = positions.leaf.size(0)](float* out) {
      table_gradient(gradient, at.data(), rows, out, threads);
    });
    return;
  }
  const int64_t time = ids.size(1), read = time * tokens.leaf.size(1);
  sink->defer(positions.index, [=, size = positions.leaf.numel()](float* out) {
    table_gradient(gradient, nullptr, time, out, threads);
    std::fill(out + read, out + size, 0.0f);  // positions beyond this context
  });
}

template <class T>
void look_up(const at::Tensor& ids, const Param& tokens, const Param& positions, const at::Tensor& y,
             const OpContext& context) {
  kernels::EmbeddingForward<T> args;
  args.count = ids.numel();
  args.columns = tokens.leaf.size(1);
  args.ids = ids.const_data_ptr<int64_t>();
  args.table = numbers<T>(tokens.leaf);
  args.positions = numbers<T>(positions.leaf);
  args.period = ids.size(1);
  if (positions.defined() && !context.positions.empty()) args.position_ids = context.positions.data();
  args.out = mutable_numbers<T>(y);
  kernels::embedding_forward(args, context.threads);
}

// The vectors of tokens [first, first + rows); zeros in place of the others.
at::Tensor own_vectors(const at::Tensor& ids, const at::Tensor& table, int64_t first) {
  const at::Tensor y = at::zeros({ids.size(0), ids.size(1), table.size(1)}, table.options());
  const auto row_bytes = static_cast<size_t>(table.size(1)) * table.element_size();
  const auto* const from = static_cast<const std::byte*>(table.const_data_ptr());
  auto* to = static_cast<std::byte*>(y.data_ptr());
  const int64_t* const id = ids.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < ids.numel(); ++i, to += row_bytes) {
    const int64_t row = id[i] - first;
    if (row >= 0 && row < table.size(0))
      std::memcpy(to, from + static_cast<size_t>(row) * row_bytes, row_bytes);
  }
  return y;
}

}  // namespace

void check_ids(const at::Tensor& ids, int64_t vocabulary) {
  const std::span<const int64_t> all(ids.const_data_ptr<int64_t>(), static_cast<size_t>(ids.numel()));
  const auto bad = std::ranges::find_if(all, [&](int64_t id) { return id < 0 || id >= vocabulary; });
  if (bad != all.end()) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("token {} at position {} of sample {} of the microbatch is outside the vocabulary of {}: "
                    "prepare the data with the model's vocabulary",
                    *bad, (bad - all.begin()) % ids.size(1), (bad - all.begin()) / ids.size(1), vocabulary));
  }
}

void check_tables(const at::Tensor& ids, const Param& positions, const OpContext& context) {
  FURROW_CHECK(ids.dim() == 2 && ids.scalar_type() == at::kLong, "embedding reads int64 [batch, time]");
  FURROW_CHECK(!positions.defined() || positions.leaf.size(0) >= ids.size(1),
               "more positions than vectors for them");
  if (positions.defined() && !context.positions.empty()) check_positions(context.positions, ids, positions);
}

OwnRows own_rows(const at::Tensor& ids, int64_t rows, int rank, const at::Device& device) {
  const at::Tensor own = ids - rank * rows, absent = own.lt(0).logical_or_(own.ge(rows));
  return {own.masked_fill(absent, 0).to(device, at::kLong, /*non_blocking=*/true),
          absent.to(device, at::kBool, /*non_blocking=*/true).unsqueeze(2)};
}

at::Tensor with_rows_backward(const at::Tensor& y, const CutTables& tables, Backward backward) {
  if (tables.beside.defined())
    return with_backward(y, {tables.tokens.leaf, tables.beside}, std::move(backward));
  return with_backward(y, {tables.tokens.leaf}, [backward = std::move(backward)](const at::Tensor& dy) {
    backward(dy);
    return std::vector<at::Tensor>{};
  });
}

at::Tensor position_ids(const at::Tensor& ids, const OpContext& context) {
  if (context.positions.empty()) return at::arange(ids.size(1)).expand({ids.size(0), ids.size(1)});
  return at::tensor(c10::ArrayRef<int64_t>(context.positions.data(), context.positions.size()), at::kLong)
      .view({ids.size(0), ids.size(1)});
}

namespace by_kernels {

at::Tensor embedding_cut(const at::Tensor& ids, const CutTables& tables, OpContext& context) {
  const Param &tokens = tables.tokens, &positions = tables.positions;
  check_tables(ids, positions, context);
  const at::Tensor dense = ids.contiguous();
  check_ids(dense, tables.vocabulary);
  TensorAxis& axis = *context.axis;
  const int64_t first = axis.rank() * tokens.leaf.size(0), part = ids.size(1) / axis.size();
  const at::Tensor rows = own_vectors(dense, tokens.leaf.detach(), first);
  if (tables.beside.defined()) rows.add_(tables.beside.detach());
  const at::Tensor y = axis.reduce_scatter(rows, 1);
  if (positions.defined()) {
    const at::Tensor here = position_ids(dense, context).narrow(1, axis.rank() * part, part).reshape({-1});
    y.add_(positions.leaf.detach().index_select(0, here).view_as(y));
  }
  return with_rows_backward(y, tables, [=, &axis](const at::Tensor& dy) {
    const at::Tensor all = axis.all_gather(dy, 1);
    if (context.sink != nullptr) defer_tables(dense, tokens, positions, all, context, first);
    return std::vector{at::Tensor(), all};
  });
}

at::Tensor embedding(const at::Tensor& ids, const Param& tokens, const Param& positions, OpContext& context) {
  check_tables(ids, positions, context);
  const at::Tensor dense = ids.contiguous();
  check_ids(dense, tokens.leaf.size(0));
  const int64_t width = tokens.leaf.size(1);
  at::Tensor y = at::empty({ids.size(0), ids.size(1), width}, tokens.leaf.options());
  by_type(tokens.leaf.scalar_type(), [&]<class T>(T) { look_up<T>(dense, tokens, positions, y, context); });
  return with_backward(y, {tokens.leaf}, [dense, tokens, positions, context](const at::Tensor& dy) {
    if (context.sink != nullptr) defer_tables(dense, tokens, positions, dy, context);
    return std::vector<at::Tensor>{};
  });
}

}  // namespace by_kernels
}  // namespace furrow::tensor
