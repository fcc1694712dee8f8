// Operations over images whose channels lie side by side, of 16-bit numbers: what they do is float32 inside,
// so float32 says what is expected, exactly where nothing is multiplied.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <span>
#include <string>
#include <tuple>

#include "furrow/tensor/composition_torch.h"
#include "furrow/tensor/ops_torch.h"
#include "furrow/tensor/test_support_torch.h"

namespace furrow::tensor {
namespace {

using testing::bitwise_equal;
using testing::OpCase;
using testing::Ours;
using testing::random_tensor;
using testing::run_ours;

class HalfImages : public ::testing::TestWithParam<std::tuple<at::ScalarType, bool>> {
 protected:
  at::ScalarType type() const { return std::get<0>(GetParam()); }
  at::Tensor half(const at::Tensor& x) const { return x.to(type()); }
  at::Tensor rounded(const at::Tensor& x) const { return half(x).to(at::kFloat); }

  const CompositionScope scope_{std::get<1>(GetParam())};  // by the operations of devices

  // An operation without parameters gives what it gives for the same values in float32, rounded once.
  void expect_rounded(const at::Tensor& x, const at::Tensor& dy, const Ours& operation) const {
    OpCase narrow, wide;
    narrow.x = half(x);
    narrow.dy = half(dy);
    wide.x = rounded(x);
    wide.dy = rounded(dy);
    const auto got = run_ours(narrow, operation), want = run_ours(wide, operation);
    EXPECT_EQ(got.output.scalar_type(), type());
    EXPECT_TRUE(bitwise_equal(got.output, half(want.output)));
    EXPECT_TRUE(bitwise_equal(got.input_gradient, half(want.input_gradient)));
  }
};

TEST_P(HalfImages, PoolsAndShortcutsAreThoseOfFloat32) {
  const at::Tensor x = random_tensor({3, 5, 9, 8}, 1);
  expect_rounded(x, random_tensor({3, 5, 5, 4}, 2), [](const at::Tensor& in, auto, OpContext& context) {
    return max_pool(in, {3, 2, 1}, context);
  });
  expect_rounded(x, random_tensor({3, 5, 5, 4}, 2), [](const at::Tensor& in, auto, OpContext& context) {
    return average_pool(in, {3, 2, 1}, context);
  });
  expect_rounded(x, random_tensor({3, 5}, 2), [](const at::Tensor& in, auto, OpContext& context) {
    return global_average_pool(in, context);
  });
  expect_rounded(x, random_tensor({3, 8, 5, 4}, 2), [](const at::Tensor& in, auto, OpContext& context) {
    return subsample_and_pad(in, 2, 8, context);
  });
}

// With the norm behind it, against plain libtorch in double.
TEST_P(HalfImages, ConvolutionAndNormStayCloseToPlainAutograd) {
  OpCase run;
  run.x = half(random_tensor({6, 7, 9, 8}, 1));
  run.params = {rounded(random_tensor({20, 7, 3, 3}, 2, 0.2)), rounded(random_tensor({20}, 3, 0.2) + 1),
                rounded(random_tensor({20}, 4))};
  run.context.training = true;
  const Ours ours = [&](const at::Tensor& x, std::span<const Param> params, OpContext& context) {
    const auto narrow = [&](int i) {
      return Param{half(params[static_cast<size_t>(i)].leaf.detach()).requires_grad_(true), i};
    };
    const at::Tensor y = strided_conv2d(x, narrow(0), {2, 1}, context);
    BatchNorm norm;
    norm.relu = true;
    return batch_norm(y, narrow(1), narrow(2), norm, context);
  };
  const auto plain = [](const at::Tensor& x, std::span<const at::Tensor> params) {
    const at::Tensor y = at::conv2d(x, params[0], {}, 2, 1);
    return at::batch_norm(y, params[1], params[2], {}, {}, true, 0.1, 1e-5, false).relu();
  };
  const auto mine = run_ours(run, ours);
  const auto exact = testing::run_plain(run, plain, at::kDouble);
  const auto error = [](const at::Tensor& a, const at::Tensor& b) {
    return testing::distance(a, b) / b.abs().max().item<double>();
  };
  const double unit = type() == at::kBFloat16 ? 0x1p-8 : 0x1p-11;
  EXPECT_EQ(mine.output.scalar_type(), type());
  EXPECT_LT(error(mine.output, exact.output), 2 * unit);
  EXPECT_LT(error(mine.input_gradient, exact.input_gradient), 4 * unit);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(mine.gradients[i].scalar_type(), at::kFloat);
    EXPECT_LT(error(mine.gradients[i], exact.gradients[i]), 4 * unit) << i;
  }
  // Control: without a row of the window it is further away.
  OpCase other = run;
  other.params[0] = run.params[0].clone();
  other.params[0].select(2, 0).zero_();
  EXPECT_GT(error(run_ours(other, ours).gradients[0], exact.gradients[0]), 32 * unit);
}

INSTANTIATE_TEST_SUITE_P(Types, HalfImages,
                         ::testing::Combine(::testing::Values(at::kBFloat16, at::kHalf), ::testing::Bool()),
                         [](const auto& info) {
                           return std::string(at::toString(std::get<0>(info.param))) +
                                  (std::get<1>(info.param) ? "Composed" : "");
                         });

}  // namespace
}  // namespace furrow::tensor
