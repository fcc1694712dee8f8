#include <ATen/ATen.h>

#include "furrow/tensor/combine_torch.h"

namespace furrow::tensor {

void combine(Combination how, const at::Tensor& a, const at::Tensor& b, const at::Tensor& out) {
  at::Tensor to = out;
  switch (how) {
    case Combination::kSum:
      at::add_out(to, a, b);
      return;
    case Combination::kProduct:
      at::mul_out(to, a, b);
      return;
    // Of zeros of both signs b is taken, which minimum() leaves open.
    case Combination::kMinimum:
      to.copy_(at::where(a.lt(b).logical_or_(a.isnan()), a, b));
      return;
    case Combination::kMaximum:
      to.copy_(at::where(a.gt(b).logical_or_(a.isnan()), a, b));
      return;
  }
}

void divide(const at::Tensor& x, int by) {
  at::Tensor all = x;
  if (!all.is_floating_point()) {
    all.div_(by, "trunc");
  } else if (all.scalar_type() == at::kDouble) {
    all.mul_(1.0 / by);
  } else {  // mul_() of 16 bits would round the factor too, on the CPU
    all.copy_(all.to(at::kFloat).mul_(static_cast<double>(1.0F / static_cast<float>(by))));
  }
}

}  // namespace furrow::tensor
