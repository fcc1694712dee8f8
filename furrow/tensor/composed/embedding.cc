// Tables as compositions: the ids come from the host, where they are checked (a device would only end the
// process); tables' gradients go straight into the flat buffer, float32 whatever the layer computes in.
#include <ATen/ATen.h>

#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/composition_torch.h"
#include "furrow/tensor/embedding_torch.h"
#include "furrow/tensor/half_torch.h"
#include "furrow/tensor/operations_torch.h"
#include "furrow/tensor/tensor_axis_torch.h"

namespace furrow::tensor::by_composition {
namespace {

at::Tensor on_device(const at::Tensor& ids, const at::Device& device) {
  return ids.to(device, at::kLong, /*non_blocking=*/true);
}

void defer_table(GradientSink* sink, const Param& table, const at::Tensor& ids, const at::Tensor& dy) {
  sink->defer(table.index, [ids, dy, rows = table.leaf.size(0)](float* out) {
    const at::Tensor wide = widened(dy, 1);
    over(out, {rows, wide.size(-1)}, wide.device())
        .copy_(
            at::embedding_dense_backward(wide, ids, rows, /*padding_idx=*/-1, /*scale_grad_by_freq=*/false));
  });
}

void defer_rows(GradientSink* sink, const Param& table, const at::Tensor& dy) {
  sink->defer(table.index, [dy, rows = table.leaf.size(0)](float* out) {
    at::Tensor all = over(out, {rows, dy.size(-1)}, dy.device());
    all.narrow(0, 0, dy.size(1)).copy_(at::sum(dy, {0}, false, at::kFloat));
    all.narrow(0, dy.size(1), rows - dy.size(1)).zero_();
  });
}

// Of every token its position in its document, on the device; undefined where rows are whole.
at::Tensor places_of(const at::Tensor& ids, const Param& positions, const OpContext& context) {
  if (!positions.defined() || context.positions.empty()) return {};
  return on_device(position_ids(ids, context), positions.leaf.device());
}

void defer_positions(GradientSink* sink, const Param& positions, const at::Tensor& places,
                     const at::Tensor& dy) {
  if (places.defined()) {
    defer_table(sink, positions, places, dy);
  } else if (positions.defined()) {
    defer_rows(sink, positions, dy);
  }
}

// To y [batch, time, width], the vectors of its tokens' positions: `places` from `begin` on, or, where that
// is undefined, the positions from there.
void add_positions(const at::Tensor& y, const Param& positions, const at::Tensor& places, int64_t begin) {
  if (places.defined()) {
    y.add_(at::embedding(positions.leaf.detach(), places.narrow(1, begin, y.size(1))));
  } else if (positions.defined()) {
    y.add_(positions.leaf.detach().narrow(0, begin, y.size(1)));
  }
}

}  // namespace

at::Tensor embedding(const at::Tensor& ids, const Param& tokens, const Param& positions, OpContext& context) {
  check_tables(ids, positions, context);
  const at::Tensor dense = ids.contiguous();
  check_ids(dense, tokens.leaf.size(0));
  const at::Tensor here = on_device(dense, tokens.leaf.device());
  const at::Tensor y = at::embedding(tokens.leaf.detach(), here),
                   places = places_of(dense, positions, context);
  add_positions(y, positions, places, 0);
  return with_backward(y, {tokens.leaf}, [=, sink = context.sink](const at::Tensor& dy) {
    if (sink == nullptr) return std::vector<at::Tensor>{};
    defer_table(sink, tokens, here, dy);
    defer_positions(sink, positions, places, dy);
    return std::vector<at::Tensor>{};
  });
}

at::Tensor embedding_cut(const at::Tensor& ids, const CutTables& tables, OpContext& context) {
  const Param &tokens = tables.tokens, &positions = tables.positions;
  check_tables(ids, positions, context);
  const at::Tensor dense = ids.contiguous();
  check_ids(dense, tables.vocabulary);
  TensorAxis& axis = *context.axis;
  const int64_t part = ids.size(1) / axis.size();
  const OwnRows own = own_rows(dense, tokens.leaf.size(0), axis.rank(), tokens.leaf.device());
  const at::Tensor found = at::embedding(tokens.leaf.detach(), own.rows).masked_fill_(own.absent, 0);
  if (tables.beside.defined()) found.add_(tables.beside.detach());
  const at::Tensor y = axis.reduce_scatter(found, 1), places = places_of(dense, positions, context);
  add_positions(y, positions, places, axis.rank() * part);
  return with_rows_backward(y, tables, [=, &axis, sink = context.sink](const at::Tensor& dy) {
    const at::Tensor all = axis.all_gather(dy, 1);
    if (sink != nullptr) {
      defer_table(sink, tokens, own.rows, all.masked_fill(own.absent, 0));
      defer_positions(sink, positions, places, all);
    }
    return std::vector{at::Tensor(), all};
  });
}

}  // namespace furrow::tensor::by_composition
