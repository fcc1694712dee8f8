#include <ATen/ATen.h>

#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/rng.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/dropout_mask.h"
#include "furrow/tensor/half_rows_torch.h"
#include "furrow/tensor/half_torch.h"
#include "furrow/tensor/kernels/elementwise.h"
#include "furrow/tensor/operations_torch.h"
#include "furrow/tensor/tensor_axis_torch.h"

namespace furrow::tensor {

kernels::DropoutMask dropout_mask(double p, std::string_view stream, int64_t per_sample,
                                  const OpContext& context) {
  static_assert(sizeof(uint64_t) == sizeof(int64_t));
  kernels::DropoutMask mask;
  mask.p = static_cast<float>(p);
  mask.key = Philox(context.seed, RandomPurpose::kDropout, stream).key();
  mask.step = static_cast<uint64_t>(context.step);
  mask.samples = reinterpret_cast<const uint64_t*>(context.sample_ids.data());
  if (shared(context)) mask.first = context.axis->rank() * per_sample;
  return mask;
}

namespace {

void check_samples(const at::Tensor& x, const OpContext& context) {
  FURROW_CHECK(x.size(0) == static_cast<int64_t>(context.sample_ids.size()),
               "dropout needs a sample id for every row");
}

at::Tensor masked(const at::Tensor& x, const kernels::DropoutMask& mask, int threads) {
  const at::Tensor wide = widened(x, threads);
  at::Tensor out = at::empty_like(wide);
  kernels::dropout(
      {x.size(0), x.numel() / x.size(0), wide.const_data_ptr<float>(), out.data_ptr<float>(), mask}, threads);
  return narrowed(out, x.scalar_type(), threads);
}

// Columns of rows of `columns` in the whole: row by row, as a row's elements alone are side by side there.
at::Tensor masked_columns(const at::Tensor& x, int64_t columns, const kernels::DropoutMask& mask,
                          int threads) {
  const at::Tensor wide = widened(x, threads);
  const at::Tensor out = at::empty_like(wide);
  const int64_t part = x.size(-1), rows = x.numel() / part, each = rows / x.size(0);
  const auto* const from = wide.const_data_ptr<float>();
  auto* const to = out.data_ptr<float>();
  for_row_blocks(rows, part, threads, [&](int64_t begin, int64_t count) {
    for (int64_t row = begin; row < begin + count; ++row) {
      kernels::DropoutMask own = mask;
      own.samples = mask.samples + row / each;
      own.first = mask.first + row % each * columns;
      kernels::dropout({1, part, from + row * part, to + row * part, own}, 1);
    }
  });
  return narrowed(out, x.scalar_type(), threads);
}

at::Tensor sum(const at::Tensor& a, const at::Tensor& b, int threads) {
  const at::Tensor wide_a = widened(a, threads), wide_b = widened(b, threads);
  at::Tensor out = at::empty_like(wide_a);
  kernels::add(a.numel(), wide_a.const_data_ptr<float>(), wide_b.const_data_ptr<float>(),
               out.data_ptr<float>(), threads);
  return narrowed(out, a.scalar_type(), threads);
}

}  // namespace

namespace by_kernels {

at::Tensor dropout(const at::Tensor& x, double p, std::string_view stream, OpContext& context) {
  if (!context.training || p == 0) return x;
  check_samples(x, context);
  const kernels::DropoutMask mask = dropout_mask(p, stream, x.numel() / x.size(0), context);
  const int threads = context.threads;
  return with_backward(
      masked(x.detach().contiguous(), mask, threads), {x},
      [mask, threads](const at::Tensor& dy) { return std::vector{masked(dy, mask, threads)}; });
}

at::Tensor dropout_of_columns(const at::Tensor& x, int64_t columns, double p, std::string_view stream,
                              OpContext& context) {
  if (!context.training || p == 0) return x;
  check_samples(x, context);
  const kernels::DropoutMask mask = dropout_mask(p, stream, x.size(-1), context);
  const int threads = context.threads;
  return with_backward(masked_columns(x.detach().contiguous(), columns, mask, threads), {x},
                       [columns, mask, threads](const at::Tensor& dy) {
                         return std::vector{masked_columns(dy, columns, mask, threads)};
                       });
}

at::Tensor add_dropout(const at::Tensor& residual, const at::Tensor& x, double p, std::string_view stream,
                       OpContext& context) {
  FURROW_CHECK(residual.sizes() == x.sizes(), "residual and branch differ in shape");
  const at::Tensor a = residual.detach().contiguous(), b = x.detach().contiguous();
  const int threads = context.threads;
  if (!context.training || p == 0) {
    return with_backward(sum(a, b, threads), {residual, x},
                         [](const at::Tensor& dy) { return std::vector{dy, dy}; });
  }
  check_samples(x, context);
  const kernels::DropoutMask mask = dropout_mask(p, stream, x.numel() / x.size(0), context);
  const at::Tensor wide_a = widened(a, threads), wide_b = widened(b, threads);
  at::Tensor out = at::empty_like(wide_a);
  kernels::residual_dropout({x.size(0), x.numel() / x.size(0), wide_a.const_data_ptr<float>(),
                             wide_b.const_data_ptr<float>(), out.data_ptr<float>(), mask},
                            threads);
  return with_backward(
      narrowed(out, x.scalar_type(), threads), {residual, x},
      [mask, threads](const at::Tensor& dy) { return std::vector{dy, masked(dy, mask, threads)}; });
}

}  // namespace by_kernels
}  // namespace furrow::tensor
