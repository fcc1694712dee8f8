#include <ATen/ATen.h>

#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/kernels/elementwise.h"
#include "furrow/tensor/ops_torch.h"

namespace furrow::tensor {

at::Tensor swiglu(const at::Tensor& gate_up, OpContext& context) {
  FURROW_CHECK(gate_up.dim() >= 1 && gate_up.scalar_type() == at::kFloat && gate_up.size(-1) % 2 == 0,
               "swiglu reads float32 [..., 2 * width]");
  const at::Tensor both = gate_up.detach().contiguous();
  const int64_t columns = both.size(-1) / 2, rows = both.numel() / both.size(-1);
  std::vector<int64_t> sizes = both.sizes().vec();
  sizes.back() = columns;
  at::Tensor y = at::empty(sizes, both.options());
  kernels::swiglu_forward(rows, columns, both.const_data_ptr<float>(), y.data_ptr<float>(), context.threads);
  return with_backward(y, {gate_up}, [both, rows, columns, threads = context.threads](const at::Tensor& dy) {
    at::Tensor gradient = at::empty_like(both);
    kernels::swiglu_backward(rows, columns, both.const_data_ptr<float>(), dy.const_data_ptr<float>(),
                             gradient.data_ptr<float>(), threads);
    return std::vector<at::Tensor>{gradient};
  });
}

}  // namespace furrow::tensor
