#include <ATen/ATen.h>

#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/half_rows_torch.h"
#include "furrow/tensor/half_torch.h"
#include "furrow/tensor/kernels/elementwise.h"
#include "furrow/tensor/kernels/scratch.h"
#include "furrow/tensor/operations_torch.h"

namespace furrow::tensor {

namespace {

// Of float32 all at once; of 16 bits in blocks of rows.
at::Tensor forward(const at::Tensor& both, int64_t rows, int64_t columns, int threads) {
  std::vector<int64_t> sizes = both.sizes().vec();
  sizes.back() = columns;
  const at::Tensor y = at::empty(sizes, both.options());
  if (both.scalar_type() == at::kFloat) {
    kernels::swiglu_forward(rows, columns, both.const_data_ptr<float>(), y.data_ptr<float>(), threads);
    return y;
  }
  const HalfRows read(both, 2 * columns), written(y, columns);
  for_row_blocks(rows, 2 * columns, threads, [&](int64_t begin, int64_t count) {
    kernels::ScratchScope scratch;
    float* const wide = scratch.floats(count * 2 * columns);
    float* const out = scratch.floats(count * columns);
    read.read(begin, count, wide);
    kernels::swiglu_forward(count, columns, wide, out, 1);
    written.write(begin, count, out);
  });
  return y;
}

at::Tensor backward(const at::Tensor& both, const at::Tensor& dy, int64_t rows, int64_t columns,
                    int threads) {
  const at::Tensor gradient = at::empty_like(both);
  if (both.scalar_type() == at::kFloat) {
    kernels::swiglu_backward(rows, columns, both.const_data_ptr<float>(), dy.const_data_ptr<float>(),
                             gradient.data_ptr<float>(), threads);
    return gradient;
  }
  const HalfRows read(both, 2 * columns), given(dy, columns), written(gradient, 2 * columns);
  for_row_blocks(rows, 2 * columns, threads, [&](int64_t begin, int64_t count) {
    kernels::ScratchScope scratch;
    float* const wide = scratch.floats(count * 2 * columns);
    float* const wide_dy = scratch.floats(count * columns);
    read.read(begin, count, wide);
    given.read(begin, count, wide_dy);
    kernels::swiglu_backward(count, columns, wide, wide_dy, wide, 1);
    written.write(begin, count, wide);
  });
  return gradient;
}

}  // namespace

namespace by_kernels {

at::Tensor swiglu(const at::Tensor& gate_up, OpContext& context) {
  FURROW_CHECK(gate_up.dim() >= 1 && is_number(gate_up) && gate_up.size(-1) % 2 == 0,
               "swiglu reads numbers [..., 2 * width]");
  const at::Tensor both = gate_up.detach().contiguous();
  const int64_t columns = both.size(-1) / 2, rows = both.numel() / both.size(-1);
  return with_backward(forward(both, rows, columns, context.threads), {gate_up},
                       [both, rows, columns, threads = context.threads](const at::Tensor& dy) {
                         const at::Tensor dense = dy.detach().contiguous();
                         return std::vector<at::Tensor>{backward(both, dense, rows, columns, threads)};
                       });
}

}  // namespace by_kernels
}  // namespace furrow::tensor
