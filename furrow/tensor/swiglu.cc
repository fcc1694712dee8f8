#include <ATen/ATen.h>

#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/half_torch.h"
#include "furrow/tensor/kernels/elementwise.h"
#include "furrow/tensor/operations_torch.h"

namespace furrow::tensor {

namespace by_kernels {

at::Tensor swiglu(const at::Tensor& gate_up, OpContext& context) {
  FURROW_CHECK(gate_up.dim() >= 1 && is_number(gate_up) && gate_up.size(-1) % 2 == 0,
               "swiglu reads numbers [..., 2 * width]");
  const at::Tensor both = gate_up.detach().contiguous();
  const int64_t columns = both.size(-1) / 2, rows = both.numel() / both.size(-1);
  std::vector<int64_t> sizes = both.sizes().vec();
  sizes.back() = columns;
  const at::Tensor wide = widened(both, context.threads);
  at::Tensor y = at::empty(sizes, wide.options());
  kernels::swiglu_forward(rows, columns, wide.const_data_ptr<float>(), y.data_ptr<float>(), context.threads);
  const auto backward = [both, rows, columns, threads = context.threads](const at::Tensor& dy) {
    const at::Tensor wide = widened(both, threads), wide_dy = widened(dy, threads);
    at::Tensor gradient = at::empty_like(wide);
    kernels::swiglu_backward(rows, columns, wide.const_data_ptr<float>(), wide_dy.const_data_ptr<float>(),
                             gradient.data_ptr<float>(), threads);
    return std::vector<at::Tensor>{narrowed(gradient, dy.scalar_type(), threads)};
  };
  return with_backward(narrowed(y, both.scalar_type(), context.threads), {gate_up}, backward);
}

}  // namespace by_kernels
}  // namespace furrow::tensor
