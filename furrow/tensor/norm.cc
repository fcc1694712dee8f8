#include "furrow/tensor/norm.h"

#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/kernels/elementwise.h"
#include "furrow/tensor/kernels/optimizer.h"

namespace furrow::tensor {

void add_sum_of_squares(std::span<const float> values, int threads, ExactSum* sum) {
  const auto elements = static_cast<int64_t>(values.size());
  std::vector<double> blocks(static_cast<size_t>(kernels::grid_blocks(elements)));
  kernels::sum_of_squares(elements, values.data(), blocks.data(), threads);
  sum->add_all(blocks);
}

void add(std::span<const float> a, std::span<const float> b, std::span<float> out, int threads) {
  FURROW_CHECK(a.size() == b.size() && a.size() == out.size(), "operands of a sum differ in size");
  kernels::add(static_cast<int64_t>(out.size()), a.data(), b.data(), out.data(), threads);
}

}  // namespace furrow::tensor
