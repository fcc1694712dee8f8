#include <ATen/ATen.h>

#include <vector>

#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/axis_operations_torch.h"
#include "furrow/tensor/composition_torch.h"
#include "furrow/tensor/half_rows_torch.h"
#include "furrow/tensor/half_torch.h"
#include "furrow/tensor/tensor_axis_torch.h"

namespace furrow::tensor {
namespace {

void put_bias(const Param& bias, const at::Tensor& dy, const OpContext& context) {
  if (!bias.defined() || context.sink == nullptr || !context.sink->wants(bias.index)) return;
  if (composed(dy)) {
    context.sink->put(bias.index, at::sum(dy.reshape({-1, dy.size(-1)}), {0}, false, at::kFloat));
    return;
  }
  const at::Tensor db = at::empty({dy.size(-1)}, dy.options().dtype(at::kFloat));
  sum_columns(dy, dy.size(-1), db.data_ptr<float>(), context.threads);
  context.sink->put(bias.index, db);
}

}  // namespace

at::Tensor whole_input(const at::Tensor& x, Cut cut, OpContext& context) {
  TensorAxis& axis = *context.axis;
  const int threads = context.threads;
  if (cut == Cut::kColumns) {
    return with_backward(x.variable_data(), {x}, [&axis, threads](const at::Tensor& dy) {
      return std::vector{narrowed(axis.all_reduce(widened(dy, threads)), dy.scalar_type(), threads)};
    });
  }
  return with_backward(axis.all_gather(x.detach(), 1), {x}, [&axis, threads](const at::Tensor& dy) {
    return std::vector{narrowed(axis.reduce_scatter(widened(dy, threads), 1), dy.scalar_type(), threads)};
  });
}

at::Tensor summed_parts(const at::Tensor& part, const Param& bias, Cut cut, OpContext& context) {
  TensorAxis& axis = *context.axis;
  const at::Tensor wide = widened(part.variable_data(), context.threads);
  const at::Tensor sum = cut == Cut::kRows ? axis.all_reduce(wide) : axis.reduce_scatter(wide, 1);
  if (bias.defined()) sum.add_(bias.leaf.detach());
  return with_backward(narrowed(sum, part.scalar_type(), context.threads), {part},
                       [&axis, context, bias, cut](const at::Tensor& dy) {
                         put_bias(bias, dy, context);
                         return std::vector{cut == Cut::kRows ? dy : axis.all_gather(dy, 1)};
                       });
}

}  // namespace furrow::tensor
