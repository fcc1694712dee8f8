#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <tuple>

#include "furrow/base/error.h"
#include "furrow/base/rng.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/ops_torch.h"
#include "furrow/tensor/test_support_torch.h"

namespace furrow::tensor {
namespace {

using testing::bitwise_equal;
using testing::expect_matches_plain;
using testing::OpCase;
using testing::Ours;
using testing::Plain;
using testing::random_tensor;
using testing::run_ours;

Param or_absent(std::span<const Param> params, size_t index) {
  return index < params.size() ? params[index] : Param{};
}

// The Philox mask by its definition, from base/rng.h.
at::Tensor mask_of(const at::Tensor& like, double p, std::string_view stream, const OpContext& context) {
  const Philox philox(context.seed, RandomPurpose::kDropout, stream);
  at::Tensor mask = at::zeros_like(like, at::kFloat);
  const int64_t per_sample = like.numel() / like.size(0);
  const auto threshold = static_cast<uint32_t>(std::lround(p * 0x1p24));
  for (int64_t i = 0; i < like.numel(); ++i) {
    const auto sample = static_cast<uint64_t>(context.sample_ids[static_cast<size_t>(i / per_sample)]);
    const auto element = static_cast<uint32_t>(i % per_sample);
    const uint32_t word = philox.block(static_cast<uint64_t>(context.step), sample, element / 4)[element % 4];
    mask.data_ptr<float>()[i] = (word >> 8) >= threshold ? static_cast<float>(1 / (1 - p)) : 0.0f;
  }
  return mask.to(like.scalar_type());
}

OpContext training_context(std::span<const int64_t> samples) {
  OpContext context;
  context.training = true;
  context.seed = 11;
  context.step = 5;
  context.sample_ids = samples;
  return context;
}

class Linear : public ::testing::TestWithParam<std::tuple<Activation, bool, bool>> {};

TEST_P(Linear, MatchesPlainAutograd) {
  const auto [activation, with_bias, three_dims] = GetParam();
  OpCase run;
  run.x = three_dims ? random_tensor({3, 7, 33}, 1) : random_tensor({19, 33}, 1);
  run.params.push_back(random_tensor({21, 33}, 2, 0.2));
  if (with_bias) run.params.push_back(random_tensor({21}, 3));
  const Ours ours = [&](const at::Tensor& x, std::span<const Param> params, OpContext& context) {
    return linear(x, params[0], or_absent(params, 1), activation, context);
  };
  const Plain plain = [&](const at::Tensor& x, std::span<const at::Tensor> params) {
    const at::Tensor y = at::linear(x, params[0], params.size() > 1 ? params[1] : at::Tensor());
    if (activation == Activation::kRelu) return y.relu();
    return activation == Activation::kNone ? y
                                           : at::gelu(y, activation == Activation::kGelu ? "none" : "tanh");
  };
  expect_matches_plain(run, ours, plain);
  run.input_gradient = false;  // the first unit of a network
  expect_matches_plain(run, ours, plain);
}

INSTANTIATE_TEST_SUITE_P(All, Linear,
                         ::testing::Combine(::testing::Values(Activation::kNone, Activation::kRelu,
                                                              Activation::kGelu, Activation::kGeluTanh),
                                            ::testing::Bool(), ::testing::Bool()));

class Conv : public ::testing::TestWithParam<std::tuple<bool, bool, int64_t, int64_t>> {};

TEST_P(Conv, MatchesPlainAutograd) {
  const auto [relu, pool, padding, batch] = GetParam();
  const Convolution convolution{padding, relu, pool};
  OpCase run;
  run.x = random_tensor({batch, 3, 11, 13}, 1);
  run.params = {random_tensor({5, 3, 5, 5}, 2, 0.2), random_tensor({5}, 3)};
  const Ours ours = [&](const at::Tensor& x, std::span<const Param> params, OpContext& context) {
    return conv2d(x, params[0], params[1], convolution, context);
  };
  const Plain plain = [&](const at::Tensor& x, std::span<const at::Tensor> params) {
    at::Tensor y = at::conv2d(x, params[0], params[1], 1, convolution.padding);
    if (convolution.relu) y = y.relu();
    return convolution.pool ? at::max_pool2d(y, 2) : y;
  };
  expect_matches_plain(run, ours, plain);
  run.input_gradient = false;
  expect_matches_plain(run, ours, plain);
}

INSTANTIATE_TEST_SUITE_P(All, Conv,
                         ::testing::Combine(::testing::Bool(), ::testing::Bool(), ::testing::Values(0, 2),
                                            ::testing::Values(1, 19)));

TEST(Embedding, MatchesPlainAutograd) {
  OpCase run;
  run.x = at::randint(0, 9, {4, 6}, at::TensorOptions().dtype(at::kLong));
  run.params = {random_tensor({9, 20}, 2), random_tensor({8, 20}, 3)};
  expect_matches_plain(
      run,
      [](const at::Tensor& x, std::span<const Param> params, OpContext& context) {
        return embedding(x, params[0], params[1], context);
      },
      [](const at::Tensor& x, std::span<const at::Tensor> params) {
        return at::embedding(params[0], x) + params[1].narrow(0, 0, x.size(1));
      });
}

TEST(Embedding, NamesATokenOutsideTheVocabulary) {
  OpContext context;
  const at::Tensor ids = at::tensor({1, 2, 3, 9}, at::kLong).view({2, 2});
  const Param table{random_tensor({9, 4}, 1), 0};
  try {
    embedding(ids, table, {}, context);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_NE(error.message().find("token 9 at position 1 of sample 1"), std::string::npos)
        << error.message();
  }
}

TEST(LayerNorm, MatchesPlainAutograd) {
  for (const bool with_bias : {true, false}) {
    for (const int64_t columns : {1, 16, 37, 128}) {
      OpCase run;
      run.x = random_tensor({3, 70, columns}, 1) + 0.5;
      run.params.push_back(random_tensor({columns}, 2));
      if (with_bias) run.params.push_back(random_tensor({columns}, 3));
      if (columns == 1) run.params[0].zero_();  // the row is its mean: only the bias' gradient is not zero
      if (columns == 1) continue;
      expect_matches_plain(
          run,
          [](const at::Tensor& x, std::span<const Param> params, OpContext& context) {
            return layer_norm(x, params[0], or_absent(params, 1), 1e-5, context);
          },
          [](const at::Tensor& x, std::span<const at::Tensor> params) {
            return at::layer_norm(x, {x.size(-1)}, params[0], params.size() > 1 ? params[1] : at::Tensor(),
                                  1e-5);
          });
    }
  }
}

at::Tensor plain_attention(const at::Tensor& qkv, int64_t heads,
                           const std::function<at::Tensor(at::Tensor)>& drop) {
  const int64_t batch = qkv.size(0), time = qkv.size(1), width = qkv.size(2) / 3;
  const auto parts = qkv.view({batch, time, 3, heads, width / heads}).permute({2, 0, 3, 1, 4});
  const at::Tensor scores =
      parts[0].matmul(parts[1].transpose(-1, -2)) / std::sqrt(static_cast<double>(width / heads));
  const at::Tensor hidden = at::ones({time, time}, at::kBool).triu(1);
  const at::Tensor probabilities = scores.masked_fill(hidden, -INFINITY).softmax(-1);
  return drop(probabilities).matmul(parts[2]).transpose(1, 2).reshape({batch, time, width});
}

class Attention : public ::testing::TestWithParam<std::tuple<int64_t, int64_t, double>> {};

TEST_P(Attention, MatchesPlainAutograd) {
  const auto [time, head_size, p] = GetParam();
  const std::vector<int64_t> samples{8, 3, 1000};
  OpCase run;
  run.context = training_context(samples);
  // The projection before it gives attention a parameter, so that there is a gradient to control.
  run.x = random_tensor({3, time, 2 * head_size}, 1);
  run.params = {random_tensor({6 * head_size, 2 * head_size}, 2, 0.3)};
  const double probability = p;
  expect_matches_plain(
      run,
      [&](const at::Tensor& x, std::span<const Param> params, OpContext& context) {
        const at::Tensor qkv = linear(x, params[0], {}, Activation::kNone, context);
        return causal_attention(qkv, 2, probability, "layer", context);
      },
      [&](const at::Tensor& x, std::span<const at::Tensor> params) {
        return plain_attention(at::linear(x, params[0]), 2, [&](at::Tensor probabilities) {
          return probabilities * mask_of(probabilities, probability, "layer", run.context);
        });
      });
}

INSTANTIATE_TEST_SUITE_P(All, Attention,
                         ::testing::Combine(::testing::Values(1, 7, 64, 70), ::testing::Values(8, 32),
                                            ::testing::Values(0.0, 0.25)));

TEST(Attention, DoesNotSeeTheFuture) {
  OpContext context;
  at::Tensor qkv = random_tensor({1, 9, 24}, 4);
  const at::Tensor before = causal_attention(qkv, 2, 0, "layer", context);
  qkv[0][6] += 1;
  const at::Tensor after = causal_attention(qkv, 2, 0, "layer", context);
  EXPECT_TRUE(bitwise_equal(before.narrow(1, 0, 6), after.narrow(1, 0, 6)));
  EXPECT_FALSE(bitwise_equal(before.narrow(1, 6, 1), after.narrow(1, 6, 1)));
}

TEST(Dropout, IsTheDefinedMaskInForwardAndBackward) {
  const std::vector<int64_t> samples{4, 70000, int64_t{1} << 40};
  const OpContext definition = training_context(samples);
  for (const double p : {0.1, 0.5}) {
    OpContext context = definition;
    const at::Tensor x = random_tensor({3, 5, 7}, 1).requires_grad_(true);
    const at::Tensor mask = mask_of(x, p, "layer", definition);
    const at::Tensor y = dropout(x, p, "layer", context);
    EXPECT_TRUE(bitwise_equal(y.detach(), x.detach() * mask));
    EXPECT_FALSE(bitwise_equal(y.detach(), x.detach() * mask_of(x, p, "other", definition)));
    const at::Tensor residual = random_tensor({3, 5, 7}, 2).requires_grad_(true);
    const at::Tensor sum = add_dropout(residual, x, p, "layer", context);
    EXPECT_LE(testing::distance(sum.detach(), (residual + x * mask).detach()), 1e-6);
    const at::Tensor dy = random_tensor({3, 5, 7}, 3);
    y.backward(dy);
    EXPECT_TRUE(bitwise_equal(x.grad(), dy * mask));
    x.mutable_grad().reset();
    sum.backward(dy);
    EXPECT_TRUE(bitwise_equal(x.grad(), dy * mask));
    EXPECT_TRUE(bitwise_equal(residual.grad(), dy));
  }
}

// The mask belongs to the sample, not to its place in a microbatch.
TEST(Dropout, DoesNotDependOnHowABatchIsSplit) {
  const std::vector<int64_t> samples{9, 2, 31, 7};
  const at::Tensor qkv = random_tensor({4, 12, 24}, 1);
  const auto run = [&](int64_t begin, int64_t count, int64_t step) {
    OpContext context =
        training_context(std::span(samples).subspan(static_cast<size_t>(begin), static_cast<size_t>(count)));
    context.step = step;
    const at::Tensor part = qkv.narrow(0, begin, count).contiguous();
    const at::Tensor mixed = causal_attention(part, 2, 0.3, "a", context);
    return dropout(add_dropout(mixed, mixed, 0.3, "b", context), 0.3, "c", context);
  };
  const at::Tensor whole = run(0, 4, 5);
  EXPECT_TRUE(bitwise_equal(whole, at::cat({run(0, 1, 5), run(1, 3, 5)})));
  EXPECT_FALSE(bitwise_equal(whole, run(0, 4, 6)));
}

TEST(Dropout, IsIdentityOutsideTraining) {
  OpContext context;
  const at::Tensor x = random_tensor({2, 3}, 1), y = random_tensor({2, 3}, 2);
  EXPECT_TRUE(bitwise_equal(dropout(x, 0.5, "layer", context), x));
  EXPECT_TRUE(bitwise_equal(add_dropout(x, y, 0.5, "layer", context), x + y));
}

TEST(Operations, BackwardRunsOnceAndThenHoldsNothing) {
  const auto held = std::make_shared<int>(0);
  const at::Tensor x = random_tensor({3}, 1).requires_grad_(true);
  const at::Tensor y =
      with_backward(x.detach() * 2, {x}, [held](const at::Tensor& dy) { return std::vector{dy * 2}; });
  EXPECT_EQ(held.use_count(), 2);
  y.backward(at::ones({3}), /*retain_graph=*/true);
  EXPECT_EQ(held.use_count(), 1);
  EXPECT_TRUE(bitwise_equal(x.grad(), at::full({3}, 2.0f)));
  EXPECT_THROW(y.backward(at::ones({3})), Error);
}

// The weight's product is not formed before the sink is written; bias and input are there at once.
TEST(Operations, WeightGradientsWaitForTheSink) {
  GradientSink sink(2);
  OpContext context;
  context.sink = &sink;
  const at::Tensor x = random_tensor({5, 4}, 1).requires_grad_(true);
  const Param weight{random_tensor({3, 4}, 2).requires_grad_(true), 0}, bias{random_tensor({3}, 3), 1};
  const at::Tensor dy = random_tensor({5, 3}, 4);
  linear(x, weight, bias, Activation::kNone, context).backward(dy);
  EXPECT_TRUE(x.grad().defined());
  EXPECT_FALSE(weight.leaf.grad().defined());
  dy.zero_();  // what the deferred product reads
  std::vector<float> out(15, -1.0f);
  const std::vector<std::span<float>> targets{{out.data(), 12}, {out.data() + 12, 3}};
  sink.write(targets);
  EXPECT_EQ(std::count(out.begin(), out.begin() + 12, 0.0f), 12) << "formed late, from the zeroed dy";
  EXPECT_EQ(std::count(out.begin() + 12, out.end(), 0.0f), 0) << "the bias' was formed before";
}

TEST(Operations, RecordNothingWithoutGradients) {
  const at::NoGradGuard no_grad;
  OpContext context;
  const Param weight{random_tensor({4, 6}, 1).requires_grad_(true), 0};
  EXPECT_FALSE(linear(random_tensor({2, 6}, 2), weight, {}, Activation::kRelu, context).requires_grad());
}

TEST(Operations, RefuseTensorsThatDoNotFit) {
  OpContext context;
  const Param weight{random_tensor({4, 6}, 1), 0};
  EXPECT_THROW(linear(random_tensor({2, 5}, 2), weight, {}, Activation::kNone, context), Error);
  EXPECT_THROW(conv2d(random_tensor({2, 5}, 2), weight, {}, {}, context), Error);
  EXPECT_THROW(layer_norm(random_tensor({2, 5}, 2), weight, {}, 1e-5, context), Error);
  EXPECT_THROW(causal_attention(random_tensor({2, 5, 7}, 2), 2, 0, "layer", context), Error);
  EXPECT_THROW(causal_attention(random_tensor({2, 5, 32}, 2), {4, 3, {}}, 0, "layer", context), Error);
  EXPECT_THROW(rms_norm(random_tensor({2, 5}, 2), weight, 1e-5, context), Error);
  EXPECT_THROW(swiglu(random_tensor({2, 5}, 2), context), Error);
  EXPECT_THROW(lstm(random_tensor({2, 5, 3}, 2), weight, weight, context), Error);
  EXPECT_THROW(add_dropout(random_tensor({2, 5}, 2), random_tensor({2, 6}, 2), 0, "layer", context), Error);
}

}  // namespace
}  // namespace furrow::tensor
