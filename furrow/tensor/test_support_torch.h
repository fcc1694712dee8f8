// Running an operation or a block of ours beside the same thing in plain libtorch autograd.  For tests only.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "furrow/tensor/gradient_sink_torch.h"
#include "furrow/tensor/op_context.h"

namespace furrow::tensor::testing {

// Standard normal numbers (times `scale`), a function of the seed.
at::Tensor random_tensor(at::IntArrayRef sizes, uint64_t seed, double scale = 1);

struct OpResult {
  at::Tensor output;
  at::Tensor input_gradient;          // undefined when the input needs none
  std::vector<at::Tensor> gradients;  // by parameter
};

using Ours =
    std::function<at::Tensor(const at::Tensor& x, std::span<const Param> params, OpContext& context)>;
using Plain = std::function<at::Tensor(const at::Tensor& x, std::span<const at::Tensor> params)>;

// Forward, backward from `dy` (by default a fixed random one) and the deferred part, as the executor does
// them. Whether the input needs a gradient follows from its type: float tensors do unless `input_gradient` is
// false.
struct OpCase {
  at::Tensor x;
  std::vector<at::Tensor> params;
  at::Tensor dy;
  OpContext context;
  bool input_gradient = true;
};
OpResult run_ours(const OpCase& run, const Ours& ours);
OpResult run_plain(const OpCase& run, const Plain& plain, at::ScalarType dtype);

// max |a - b|; infinite when shapes differ or a value is not finite.
double distance(const at::Tensor& a, const at::Tensor& b);

// Is `ours` within the bound of bounds.h, given libtorch's float32 and float64 results?
::testing::AssertionResult within_bound(const at::Tensor& ours, const at::Tensor& plain32,
                                        const at::Tensor& plain64);
// The same, given how far libtorch's float32 result lies from `plain64`.
::testing::AssertionResult within_bound(const at::Tensor& ours, const at::Tensor& plain64,
                                        double libtorch_error);

// Expects output and every gradient within the bound, by kernels and as a composition, and the kernels' bits
// from one thread and from two; a copy
// of each gradient with one element changed by 2^-14 of itself must be outside the bound.
void expect_matches_plain(const OpCase& run, const Ours& ours, const Plain& plain);

bool bitwise_equal(const at::Tensor& a, const at::Tensor& b);

}  // namespace furrow::tensor::testing
