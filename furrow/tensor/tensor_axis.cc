#include <ATen/ATen.h>

#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/tensor_axis_torch.h"

namespace furrow::tensor {
namespace {

// [.., size * n, ..] along `dim` <-> [size, .., n, ..], where every rank's slice is dense.
at::Tensor slices_of(const at::Tensor& x, int64_t dim, int64_t size) {
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes[static_cast<size_t>(dim)] /= size;
  sizes.insert(sizes.begin() + dim, size);
  return x.view(sizes).movedim(dim, 0);
}

}  // namespace

int64_t AxisCollective::bytes() const {
  return static_cast<int64_t>(op == Op::kAllGather ? out.nbytes() : in.nbytes());
}

at::Tensor TensorAxis::all_reduce(const at::Tensor& x, AxisCollective::Reduction reduction) {
  if (size() == 1) return x;
  const at::Tensor dense = x.contiguous();
  run({AxisCollective::Op::kAllReduce, reduction, dense, dense});
  return dense;
}

at::Tensor TensorAxis::reduce_scatter(const at::Tensor& x, int64_t dim) {
  if (size() == 1) return x;
  FURROW_CHECK(x.size(dim) % size() == 0, "a reduce_scatter of equal parts");
  const at::Tensor slices = slices_of(x.contiguous(), dim, size()).contiguous();
  const at::Tensor part = at::empty(slices[0].sizes(), slices.options());
  run({AxisCollective::Op::kReduceScatter, AxisCollective::Reduction::kSum, slices, part});
  return part;
}

at::Tensor TensorAxis::all_gather(const at::Tensor& x, int64_t dim) {
  if (size() == 1) return x;
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes.insert(sizes.begin(), size());
  const at::Tensor slices = at::empty(sizes, x.options());
  run({AxisCollective::Op::kAllGather, AxisCollective::Reduction::kSum, x.contiguous(), slices});
  sizes.erase(sizes.begin());
  sizes[static_cast<size_t>(dim)] *= size();
  return slices.movedim(0, dim).reshape(sizes);
}

}  // namespace furrow::tensor
