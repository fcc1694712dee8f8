// Compositions beside kernels where ops_test.cc, which runs both, does not look: masks, losses, flat buffers,
// 16-bit numbers.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/composition_torch.h"
#include "furrow/tensor/dtype_torch.h"
#include "furrow/tensor/flat_buffer_torch.h"
#include "furrow/tensor/flat_math_torch.h"
#include "furrow/tensor/loss_torch.h"
#include "furrow/tensor/ops_torch.h"
#include "furrow/tensor/test_support_torch.h"

namespace furrow::tensor {
namespace {

using testing::bitwise_equal;
using testing::random_tensor;

TEST(Composition, IsChosenByScopeAndDevice) {
  const at::Tensor x = at::ones({1});
  EXPECT_FALSE(composed(x));
  {
    const CompositionScope off(false);
    EXPECT_FALSE(composed(x));
    const CompositionScope on;
    EXPECT_TRUE(composed(x));
    const CompositionScope inner(false);
    EXPECT_TRUE(composed(x)) << "a scope adds to those around it";
  }
  EXPECT_FALSE(composed(x));
  EXPECT_TRUE(composed(at::Device(at::kCUDA, 0)));
}

// The same bits: samples beyond 32 bits, sizes that are no whole blocks.
TEST(Composition, DrawsTheMasksOfTheKernels) {
  const std::vector<int64_t> samples{5, (int64_t{1} << 40) + 3, 0};
  for (const int64_t per_sample : {1, 7, 64, 1031}) {
    OpContext context;
    context.training = true;
    context.seed = 11;
    context.step = (int64_t{1} << 35) + 9;
    context.sample_ids = samples;
    const at::Tensor x = random_tensor({3, per_sample}, 1);
    const at::Tensor kernels = dropout(x, 0.3, "layer", context);
    const at::Tensor summed = add_dropout(x, x, 0.3, "layer", context);
    const CompositionScope scope;
    EXPECT_TRUE(bitwise_equal(kernels, dropout(x, 0.3, "layer", context))) << per_sample;
    EXPECT_TRUE(bitwise_equal(summed, add_dropout(x, x, 0.3, "layer", context))) << per_sample;
    context.step += 1;
    if (per_sample > 60) {
      EXPECT_FALSE(bitwise_equal(kernels, dropout(x, 0.3, "layer", context))) << "control";
    }
  }
}

// Dropped probabilities: the same mask inside.
TEST(Composition, DropsTheProbabilitiesThatKernelsDrop) {
  const std::vector<int64_t> samples{3, 8};
  OpContext context;
  context.training = true;
  context.seed = 7;
  context.sample_ids = samples;
  const at::Tensor qkv = random_tensor({2, 9, 3 * 16}, 1);
  const at::Tensor kernels = causal_attention(qkv, 2, 0.25, "attention", context);
  const CompositionScope scope;
  EXPECT_TRUE(at::allclose(kernels, causal_attention(qkv, 2, 0.25, "attention", context), 1e-4, 1e-5));
  EXPECT_FALSE(at::allclose(kernels, causal_attention(qkv, 2, 0.25, "other", context), 1e-4, 1e-5));
}

TEST(Composition, LossesAreTheKernels) {
  const at::Tensor logits = random_tensor({6, 11}, 1, 3);
  const at::Tensor targets = at::tensor({3, 0, -100, 10, 5, -100}, at::kLong);
  logits[2].fill_(std::numeric_limits<float>::quiet_NaN());  // ignored, whatever it is
  const std::vector<float> weights = {1, 0, 3, 0.5, 2, 0.25, 1, 7, 1, 0.125, 4};
  for (const ClassTerms& terms :
       {ClassTerms{}, ClassTerms{0.1}, ClassTerms{0, weights}, ClassTerms{0.1, weights}}) {
    at::Tensor by_kernels, by_composition;
    const CrossEntropySums expected = cross_entropy(logits, targets, &by_kernels, 1, terms);
    const CompositionScope scope;
    const CrossEntropySums found = cross_entropy(logits, targets, &by_composition, 1, terms);
    EXPECT_EQ(found.rows, expected.rows);
    EXPECT_EQ(found.weight.value(), expected.weight.value());
    EXPECT_EQ(found.correct, expected.correct);
    EXPECT_NEAR(found.loss.value(), expected.loss.value(), 1e-5);
    EXPECT_TRUE(at::allclose(by_composition, by_kernels, 1e-5, 2e-6));
    EXPECT_EQ(by_composition[2].abs().sum().item<float>(), 0) << "ignored";
    EXPECT_THROW(cross_entropy(logits, targets + 1, nullptr, 1, terms), Error);
  }
}

// More classes than a few rows of exponentials are taken of at a time.
TEST(Composition, LossesOfManyClassesGoByRows) {
  const int64_t classes = 3'000'000;
  const at::Tensor logits = random_tensor({5, classes}, 3, 2).to(at::kBFloat16);
  const at::Tensor targets = at::tensor({int64_t{7}, classes - 1, kIgnoredTarget, int64_t{0}, int64_t{99}});
  at::Tensor by_kernels, by_composition;
  const CrossEntropySums expected = cross_entropy(logits, targets, &by_kernels, 1, {.smoothing = 0.1});
  const CompositionScope scope;
  const CrossEntropySums found = cross_entropy(logits, targets, &by_composition, 1, {.smoothing = 0.1});
  EXPECT_EQ(found.rows, 4);
  EXPECT_NEAR(found.loss.value(), expected.loss.value(), 1e-4);
  EXPECT_TRUE(at::allclose(by_composition, by_kernels, 1e-5, 1e-9));
  EXPECT_NEAR(by_composition.select(0, 4).sum().item<double>(), 0, 1e-4);
  at::Tensor rounded;
  cross_entropy(logits, targets, &rounded, 1, {.smoothing = 0.1, .gradient_type = at::kBFloat16});
  EXPECT_TRUE(at::equal(rounded, by_composition.to(at::kBFloat16)));
}

TEST(Composition, LossesOfOneNumberAreTheKernels) {
  const at::Tensor values = random_tensor({5, 3}, 1), labels = random_tensor({5, 3}, 2).gt(0).to(at::kFloat);
  for (const auto loss : {&squared_error, &binary_cross_entropy}) {
    at::Tensor by_kernels, by_composition;
    const PointwiseSums expected = loss(values, labels, &by_kernels, 1);
    const CompositionScope scope;
    const PointwiseSums found = loss(values, labels, &by_composition, 1);
    EXPECT_EQ(found.values, expected.values);
    EXPECT_EQ(found.correct, expected.correct);
    EXPECT_NEAR(found.loss.value(), expected.loss.value(), 1e-5);
    EXPECT_TRUE(at::allclose(by_composition, by_kernels, 1e-5, 1e-6));
  }
}

// A layer in bfloat16: the gradient of its weight is float32, as the kernels' is.
TEST(Composition, WeightsOfHalfLayersHaveFloat32Gradients) {
  testing::OpCase run;
  run.x = random_tensor({40, 24}, 1).to(at::kBFloat16);
  run.params = {random_tensor({8, 24}, 2, 0.2)};
  const testing::Ours ours = [](const at::Tensor& x, std::span<const Param> params, OpContext& context) {
    const Param half{params[0].leaf.detach().to(at::kBFloat16).requires_grad_(true), 0};
    return linear(x, half, {}, Activation::kRelu, context);
  };
  const testing::OpResult kernels = run_ours(run, ours);
  const CompositionScope scope;
  const testing::OpResult composition = run_ours(run, ours);
  EXPECT_TRUE(at::allclose(kernels.gradients[0], composition.gradients[0], 1e-2, 1e-2));
  EXPECT_FALSE(at::equal(composition.gradients[0], composition.gradients[0].to(at::kBFloat16).to(at::kFloat)))
      << "rounded to bfloat16";
}

// Sums, conversions and norms of 16 bits: element for element those of base, whoever computes them.
TEST(FlatMath, RoundsNumbersOfSixteenBits) {
  const at::Tensor a = random_tensor({40000}, 1), b = random_tensor({40000}, 2);
  const auto numbers = [](const at::Tensor& t) {
    return Numbers(dtype_of(t.scalar_type()), static_cast<std::byte*>(t.data_ptr()), t.numel());
  };
  for (const at::ScalarType type : {at::kBFloat16, at::kHalf}) {
    for (const bool composes : {false, true}) {
      std::optional<CompositionScope> scope;
      if (composes) scope.emplace();
      const std::unique_ptr<FlatMath> math = flat_math_on(at::kCPU, 1);
      const at::Tensor x = at::empty({40000}, type), y = at::empty({40000}, type),
                       sum = at::empty({40000}, type);
      math->copy(numbers(a), numbers(x));
      math->copy(numbers(b), numbers(y));
      math->add(numbers(x), numbers(y), numbers(sum));
      const at::Tensor wide = at::empty({40000}, at::kFloat);
      math->copy(numbers(sum), numbers(wide));
      EXPECT_TRUE(bitwise_equal(x, a.to(type)) && bitwise_equal(y, b.to(type)));
      EXPECT_TRUE(bitwise_equal(sum, (x.to(at::kFloat) + y.to(at::kFloat)).to(type)));
      EXPECT_FALSE(bitwise_equal(sum, (a + b).to(type)))
          << "control: terms are rounded before they are added";
      EXPECT_TRUE(bitwise_equal(wide, sum.to(at::kFloat)));
      math->add(numbers(x), numbers(y), numbers(x));
      EXPECT_TRUE(bitwise_equal(x, sum)) << "in place";
      const std::vector<Numbers> parts{numbers(sum)}, widened{numbers(wide)};
      EXPECT_EQ(math->sums_of_squares(parts)[0].value(), math->sums_of_squares(widened)[0].value());
    }
  }
}

TEST(FlatMath, ComposedIsTheKernels) {
  const at::Tensor a = random_tensor({2600}, 1), b = random_tensor({2600}, 2);
  const auto span = [](const at::Tensor& t) { return std::span(t.data_ptr<float>(), size_t(t.numel())); };
  const std::unique_ptr<FlatMath> kernels = flat_math_on(at::kCPU, 1);
  const CompositionScope scope;
  const std::unique_ptr<FlatMath> composition = flat_math_on(at::kCPU, 1);
  const at::Tensor sum = at::empty_like(a);
  composition->add(span(a), span(b), span(sum));
  EXPECT_TRUE(bitwise_equal(sum, a + b));
  const std::vector<Numbers> parts{span(a), Numbers(), span(b).first(1024)};
  const auto expected = kernels->sums_of_squares(parts), found = composition->sums_of_squares(parts);
  ASSERT_EQ(found.size(), parts.size());
  for (size_t i = 0; i < parts.size(); ++i)
    EXPECT_NEAR(found[i].value(), expected[i].value(), 1e-9 * expected[i].value());
  const at::Tensor x = a.clone(), y = b.clone();
  composition->swap(span(x), span(y));
  EXPECT_TRUE(bitwise_equal(x, b) && bitwise_equal(y, a));
  composition->copy(span(a), span(x));
  composition->zero(span(y));
  EXPECT_TRUE(bitwise_equal(x, a) && bitwise_equal(y, at::zeros_like(a)));
  composition->update_average(span(b), span(x), 0.75);
  EXPECT_TRUE(at::allclose(x, a + 0.25 * (b - a), 1e-5, 1e-6));
}

}  // namespace
}  // namespace furrow::tensor
