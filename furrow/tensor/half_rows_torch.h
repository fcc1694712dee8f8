// 16-bit numbers a block of rows at a time, for kernels that work in float32: no copy of a whole tensor.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

namespace furrow::tensor {

// A dense tensor of 16-bit numbers as rows, float32 in the scratch of whoever works on some of them.
class HalfRows {
 public:
  HalfRows(const at::Tensor& tensor, int64_t columns) : tensor_(tensor), columns_(columns) {}
  void read(int64_t begin, int64_t count, float* to) const;
  void write(int64_t begin, int64_t count, const float* from) const;

 private:
  at::Tensor tensor_;
  int64_t columns_;
};

// Calls work(begin, count) for blocks of rows, on several threads; a block's float32 copies stay in a core's
// cache.  Blocks depend on the shape alone, so sums over rows may be formed block by block.
inline constexpr int64_t kLeastBlockRows = 32;
int64_t block_rows(int64_t columns);
void for_row_blocks(int64_t rows, int64_t columns, int threads,
                    const std::function<void(int64_t begin, int64_t count)>& work);

// What each column of the rows of `x` adds up to, float32, in an order that the shape alone decides.
at::Tensor column_sums(const at::Tensor& x, int threads);

}  // namespace furrow::tensor
