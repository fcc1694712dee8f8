#include <ATen/CPUGeneratorImpl.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <limits>

#include "furrow/tensor/bounds.h"
#include "furrow/tensor/composition_torch.h"
#include "furrow/tensor/test_support_torch.h"

namespace furrow::tensor::testing {
namespace {

std::vector<at::Tensor> gradients_of(const at::Tensor& output, const std::vector<at::Tensor>& wanted,
                                     const OpCase& run) {
  const at::Tensor dy = run.dy.defined() ? run.dy : random_tensor(output.sizes(), 77);
  return torch::autograd::grad({output}, wanted, {dy.to(output.scalar_type())}, std::nullopt, false, true);
}

at::Tensor leaf_of(const at::Tensor& x, bool requires_grad) {
  return x.detach().clone().set_requires_grad(requires_grad && x.is_floating_point());
}

}  // namespace

at::Tensor random_tensor(at::IntArrayRef sizes, uint64_t seed, double scale) {
  return at::randn(sizes, at::detail::createCPUGenerator(seed)) * scale;
}

OpResult run_ours(const OpCase& run, const Ours& ours) {
  GradientSink sink(static_cast<int>(run.params.size()));
  OpContext context = run.context;
  context.sink = &sink;
  const at::Tensor x = leaf_of(run.x, run.input_gradient);
  std::vector<Param> params;
  std::vector<at::Tensor> wanted;
  for (const at::Tensor& param : run.params) {
    params.push_back({leaf_of(param, true), static_cast<int>(params.size())});
    wanted.push_back(params.back().leaf);
  }
  if (x.requires_grad()) wanted.push_back(x);
  OpResult result;
  at::Tensor output = ours(x, params, context);
  result.output = output.detach();
  std::vector<at::Tensor> gradients = gradients_of(output, wanted, run);
  if (x.requires_grad()) result.input_gradient = gradients.back();
  std::vector<std::span<float>> targets;
  for (size_t i = 0; i < params.size(); ++i) {
    if (gradients[i].defined()) sink.put(static_cast<int>(i), gradients[i]);
    result.gradients.push_back(at::full_like(run.params[i], std::nanf("")));
    targets.emplace_back(result.gradients[i].data_ptr<float>(),
                         static_cast<size_t>(result.gradients[i].numel()));
  }
  sink.write(targets);
  return result;
}

OpResult run_plain(const OpCase& run, const Plain& plain, at::ScalarType dtype) {
  const bool is_float = run.x.is_floating_point();
  const at::Tensor x = leaf_of(is_float ? run.x.to(dtype) : run.x, run.input_gradient);
  std::vector<at::Tensor> wanted;
  for (const at::Tensor& param : run.params) wanted.push_back(leaf_of(param.to(dtype), true));
  const size_t params = wanted.size();
  OpResult result;
  const at::Tensor output = plain(x, {wanted.data(), params});
  result.output = output.detach();
  if (x.requires_grad()) wanted.push_back(x);
  result.gradients = gradients_of(output, wanted, run);
  for (size_t i = 0; i < params; ++i) {
    if (!result.gradients[i].defined()) result.gradients[i] = at::zeros_like(wanted[i]);
  }
  if (x.requires_grad()) {
    result.input_gradient = result.gradients.back();
    result.gradients.pop_back();
  }
  return result;
}

double distance(const at::Tensor& a, const at::Tensor& b) {
  if (a.sizes() != b.sizes()) return std::numeric_limits<double>::infinity();
  if (a.numel() == 0) return 0;
  const double largest = (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
  return std::isfinite(largest) ? largest : std::numeric_limits<double>::infinity();
}

::testing::AssertionResult within_bound(const at::Tensor& ours, const at::Tensor& plain32,
                                        const at::Tensor& plain64) {
  return within_bound(ours, plain64, distance(plain32, plain64));
}

::testing::AssertionResult within_bound(const at::Tensor& ours, const at::Tensor& plain64,
                                        double libtorch_error) {
  const double scale = plain64.numel() == 0 ? 0 : plain64.abs().max().item<double>();
  const double bound = kErrorFactor * libtorch_error + kFloorUlps * 0x1p-23 * scale;
  const double error = distance(ours, plain64);
  if (error <= bound) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure()
         << "error " << error << " against float64, bound " << bound << ", libtorch's own " << libtorch_error;
}

namespace {

void expect_same_bits_on_two_threads(OpCase run, const Ours& ours, const OpResult& on_one) {
  run.context.threads = 2;
  const OpResult on_two = run_ours(run, ours);
  EXPECT_TRUE(bitwise_equal(on_one.output, on_two.output));
  EXPECT_EQ(on_one.input_gradient.defined(), on_two.input_gradient.defined());
  if (on_one.input_gradient.defined()) {
    EXPECT_TRUE(bitwise_equal(on_one.input_gradient, on_two.input_gradient));
  }
  for (size_t i = 0; i < on_one.gradients.size(); ++i) {
    EXPECT_TRUE(bitwise_equal(on_one.gradients[i], on_two.gradients[i])) << "parameter " << i;
  }
}

}  // namespace

void expect_matches_plain(const OpCase& run, const Ours& ours, const Plain& plain) {
  const OpResult mine = run_ours(run, ours);
  expect_same_bits_on_two_threads(run, ours, mine);
  const OpResult plain32 = run_plain(run, plain, at::kFloat), plain64 = run_plain(run, plain, at::kDouble);
  EXPECT_TRUE(within_bound(mine.output, plain32.output, plain64.output)) << "output";
  if (plain64.input_gradient.defined()) {
    EXPECT_TRUE(within_bound(mine.input_gradient, plain32.input_gradient, plain64.input_gradient))
        << "input gradient";
  }
  const CompositionScope scope;
  const OpResult composed = run_ours(run, ours);
  EXPECT_TRUE(within_bound(composed.output, plain32.output, plain64.output)) << "composed output";
  EXPECT_EQ(composed.input_gradient.defined(), plain64.input_gradient.defined());
  if (plain64.input_gradient.defined()) {
    EXPECT_TRUE(within_bound(composed.input_gradient, plain32.input_gradient, plain64.input_gradient))
        << "composed input gradient";
  }
  for (size_t i = 0; i < run.params.size(); ++i) {
    EXPECT_TRUE(within_bound(composed.gradients[i], plain32.gradients[i], plain64.gradients[i]))
        << "composed parameter " << i;
    EXPECT_TRUE(within_bound(mine.gradients[i], plain32.gradients[i], plain64.gradients[i]))
        << "parameter " << i;
    // Negative control: one element of one gradient wrong in its last eight bits of mantissa.
    at::Tensor wrong = mine.gradients[i].clone();
    const int64_t largest = wrong.abs().argmax().item<int64_t>();
    wrong.view(-1)[largest] *= 1 + 0x1p-14;
    EXPECT_FALSE(within_bound(wrong, plain32.gradients[i], plain64.gradients[i]))
        << "control of parameter " << i;
  }
}

bool bitwise_equal(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.contiguous(), y = b.contiguous();
  return x.sizes() == y.sizes() && x.scalar_type() == y.scalar_type() &&
         (x.nbytes() == 0 || std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0);
}

}  // namespace furrow::tensor::testing
