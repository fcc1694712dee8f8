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
  context.sink->put(bias.index, composed(dy) ? at::sum(dy.reshape({-1, dy.size(-1)}), {0}, false, at::kFloat)
                                             : column_sums(dy, context.threads));
}

}  // namespace

WholeInput whole_input(const at::Tensor& x, Cut cut, OpContext& context) {
  TensorAxis& axis = *context.axis;
  const int threads = context.threads;
  const at::ScalarType type = x.scalar_type();
  const bool gathers = cut == Cut::kPositionsToColumns, wide = type == at::kFloat;
  const at::Tensor whole = gathers ? axis.all_gather(x.detach(), 1) : x.variable_data();
  const at::Tensor shape =
      wide ? whole : at::empty({1}, x.options().dtype(at::kFloat)).expand(whole.sizes()).variable_data();
  const at::Tensor handle = with_backward(shape, {x}, [=, &axis](const at::Tensor& dy) {
    return std::vector{narrowed(gathers ? axis.reduce_scatter(dy, 1) : axis.all_reduce(dy), type, threads)};
  });
  return {handle, wide ? at::Tensor() : whole};
}

at::Tensor widened(const WholeInput& input, OpContext& context) {
  if (!input.read.defined()) return input.x;
  return with_backward(widened(input.read, context.threads), {input.x},
                       [](const at::Tensor& dy) { return std::vector{dy}; });
}

at::Tensor summed_parts(const at::Tensor& part, const LinearLayer& layer, OpContext& context) {
  TensorAxis& axis = *context.axis;
  const bool scatters = layer.cut == Cut::kRowsToPositions;
  const at::Tensor own = part.variable_data();
  const at::Tensor sum = scatters ? axis.reduce_scatter(own, 1) : axis.all_reduce(own);
  if (layer.bias.defined()) sum.add_(layer.bias.leaf.detach());
  const at::Tensor y = narrowed(sum, layer.weight.leaf.scalar_type(), context.threads);
  return with_backward(y, {part}, [&axis, context, bias = layer.bias, scatters](const at::Tensor& dy) {
    put_bias(bias, dy, context);
    return std::vector{widened(scatters ? axis.all_gather(dy, 1) : dy, context.threads)};
  });
}

}  // namespace furrow::tensor
