#include <ATen/ATen.h>

#include <algorithm>

#include "furrow/tensor/half_rows_torch.h"
#include "furrow/tensor/kernels/gemm.h"
#include "furrow/tensor/kernels/half.h"
#include "furrow/tensor/kernels/parallel.h"
#include "furrow/tensor/kernels/scratch.h"

namespace furrow::tensor {

void HalfRows::read(int64_t begin, int64_t count, float* to) const {
  const int64_t offset = begin * columns_, size = count * columns_;
  if (tensor_.scalar_type() == at::kBFloat16)
    return kernels::convert(size, static_cast<const kernels::bf16*>(tensor_.const_data_ptr()) + offset, to,
                            1);
  kernels::convert(size, static_cast<const kernels::f16*>(tensor_.const_data_ptr()) + offset, to, 1);
}

void HalfRows::write(int64_t begin, int64_t count, const float* from) const {
  const int64_t offset = begin * columns_, size = count * columns_;
  if (tensor_.scalar_type() == at::kBFloat16)
    return kernels::convert(size, from, static_cast<kernels::bf16*>(tensor_.data_ptr()) + offset, 1);
  kernels::convert(size, from, static_cast<kernels::f16*>(tensor_.data_ptr()) + offset, 1);
}

int64_t block_rows(int64_t columns) {
  constexpr int64_t kElements = 1 << 14;
  return std::max(kLeastBlockRows, kElements / std::max<int64_t>(columns, 1));
}

void for_row_blocks(int64_t rows, int64_t columns, int threads,
                    const std::function<void(int64_t begin, int64_t count)>& work) {
  const int64_t each = block_rows(columns), blocks = (rows + each - 1) / each;
  kernels::parallel_for(threads, blocks, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) work(b * each, std::min(each, rows - b * each));
  });
}

at::Tensor column_sums(const at::Tensor& x, int threads) {
  const at::Tensor dense = x.detach().contiguous();
  const int64_t columns = x.size(-1), rows = x.numel() / columns;
  const int64_t each = block_rows(columns), blocks = (rows + each - 1) / each;
  at::Tensor sums = at::empty({columns}, dense.options().dtype(at::kFloat));
  if (dense.scalar_type() == at::kFloat) {
    kernels::column_sums(rows, columns, dense.const_data_ptr<float>(), sums.data_ptr<float>(), threads);
    return sums;
  }
  const at::Tensor partial = at::empty({blocks, columns}, dense.options().dtype(at::kFloat));
  const HalfRows numbers(dense, columns);
  for_row_blocks(rows, columns, threads, [&](int64_t begin, int64_t count) {
    kernels::ScratchScope scratch;
    float* const wide = scratch.floats(count * columns);
    numbers.read(begin, count, wide);
    kernels::column_sums(count, columns, wide, partial.data_ptr<float>() + begin / each * columns, 1);
  });
  kernels::column_sums(blocks, columns, partial.const_data_ptr<float>(), sums.data_ptr<float>(), threads);
  return sums;
}

}  // namespace furrow::tensor
