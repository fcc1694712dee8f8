// One step of residual networks against plain libtorch autograd, and what batch norm says of a microbatch.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/models/kinds.h"
#include "furrow/nn/block_torch.h"
#include "furrow/nn/test_network_torch.h"
#include "furrow/plan/flat_layout.h"
#include "furrow/tensor/composition_torch.h"
#include "furrow/tensor/ops_torch.h"
#include "furrow/tensor/test_support_torch.h"

namespace furrow::nn {
namespace {

using tensor::testing::random_tensor;
using testing::append;
using testing::expect_equal_steps;
using testing::Network;
using testing::plain_linear;
using testing::Tensors;
using testing::tokens;

at::Tensor plain_norm(const at::Tensor& x, const Tensors& params, const std::string& name) {
  return at::batch_norm(x, params.at(name + ".weight"), params.at(name + ".bias"), {}, {}, true, 0.1, 1e-5,
                        false);
}

at::Tensor plain_convolution(const at::Tensor& x, const Tensors& params, const std::string& name,
                             int64_t stride, int64_t padding) {
  return at::conv2d(x, params.at(name), {}, stride, padding);
}

struct BlockForm {
  std::string name;
  int64_t channels, stride;
  bool projection;
};

at::Tensor plain_block(const at::Tensor& x, const Tensors& params, const BlockForm& form) {
  const std::string& n = form.name;
  at::Tensor shortcut = x;
  if (form.projection) {
    shortcut = plain_norm(plain_convolution(x, params, n + ".downsample.0.weight", form.stride, 0), params,
                          n + ".downsample.1");
  } else if (form.stride > 1 || form.channels > x.size(1)) {
    using at::indexing::Slice;
    shortcut = at::constant_pad_nd(x.index({Slice(), Slice(), Slice(0, at::indexing::None, form.stride),
                                            Slice(0, at::indexing::None, form.stride)}),
                                   {0, 0, 0, 0, 0, form.channels - x.size(1)});
  }
  const at::Tensor middle =
      plain_norm(plain_convolution(x, params, n + ".conv1.weight", form.stride, 1), params, n + ".bn1")
          .relu();
  return (plain_norm(plain_convolution(middle, params, n + ".conv2.weight", 1, 1), params, n + ".bn2") +
          shortcut)
      .relu();
}

at::Tensor plain_bottleneck(const at::Tensor& x, const Tensors& params, const BlockForm& form) {
  const std::string& n = form.name;
  const auto layer = [&](const at::Tensor& at, const std::string& number, int64_t stride, int64_t padding) {
    return plain_norm(plain_convolution(at, params, n + ".conv" + number + ".weight", stride, padding),
                      params, n + ".bn" + number);
  };
  const at::Tensor past =
      form.projection ? plain_norm(plain_convolution(x, params, n + ".downsample.0.weight", form.stride, 0),
                                   params, n + ".downsample.1")
                      : x;
  return (layer(layer(layer(x, "1", 1, 0).relu(), "2", form.stride, 1).relu(), "3", 1, 0) + past).relu();
}

Network residual_network(bool pool, const std::vector<BlockForm>& blocks) {
  Network network;
  network.input = random_tensor({6, 3, 18, 14}, 1);
  network.targets = tokens({6}, 10, 2);
  const int64_t kernel = pool ? 7 : 3, stride = pool ? 2 : 1;
  network.spec.units.push_back(models::make_unit("stem", "conv_norm",
                                                 {{"in_channels", int64_t{3}},
                                                  {"out_channels", int64_t{16}},
                                                  {"kernel", kernel},
                                                  {"stride", stride},
                                                  {"padding", kernel / 2},
                                                  {"pool", pool},
                                                  {"momentum", 0.1},
                                                  {"eps", 1e-5}},
                                                 {DType::kF32, {-1, 3, 18, 14}}));
  int64_t channels = 16;
  for (const BlockForm& form : blocks) {
    append(&network.spec, form.name, "residual_block",
           {{"in_channels", channels},
            {"out_channels", form.channels},
            {"stride", form.stride},
            {"shortcut", std::string(form.projection ? "projection" : "pad")},
            {"momentum", 0.1},
            {"eps", 1e-5}});
    channels = form.channels;
  }
  append(&network.spec, "fc", "pool_linear", {{"channels", channels}, {"out", int64_t{10}}});
  network.plain = [=](const at::Tensor& input, const Tensors& params) {
    at::Tensor x = plain_norm(plain_convolution(input, params, "stem.conv1.weight", stride, kernel / 2),
                              params, "stem.bn1")
                       .relu();
    if (pool) x = at::max_pool2d(x, 3, 2, 1);
    for (const BlockForm& form : blocks) x = plain_block(x, params, form);
    return plain_linear(x.mean({2, 3}), params, "fc");
  };
  return network;
}

TEST(ResidualNetwork, EqualsPlainAutograd) {
  expect_equal_steps(residual_network(
      false, {{"a", 16, 1, false}, {"b", 32, 2, false}, {"c", 48, 1, true}, {"d", 64, 2, true}}));
}

TEST(ResidualNetwork, ALargeStemAndItsPoolToo) {
  expect_equal_steps(residual_network(true, {{"a", 20, 2, true}}));
}

TEST(ResidualNetwork, OfBottlenecksEqualsPlainAutograd) {
  const std::vector<BlockForm> blocks = {{"a", 48, 1, true}, {"b", 48, 1, false}, {"c", 64, 2, true}};
  Network network = residual_network(false, {});
  network.spec.units.pop_back();
  int64_t channels = 16;
  for (const BlockForm& form : blocks) {
    append(&network.spec, form.name, "bottleneck_block",
           {{"in_channels", channels},
            {"width", int64_t{12}},
            {"out_channels", form.channels},
            {"stride", form.stride},
            {"shortcut", std::string("projection")},
            {"momentum", 0.1},
            {"eps", 1e-5}});
    channels = form.channels;
  }
  append(&network.spec, "fc", "pool_linear", {{"channels", channels}, {"out", int64_t{10}}});
  network.plain = [blocks](const at::Tensor& input, const Tensors& params) {
    at::Tensor x =
        plain_norm(plain_convolution(input, params, "stem.conv1.weight", 1, 1), params, "stem.bn1").relu();
    for (const BlockForm& form : blocks) x = plain_bottleneck(x, params, form);
    return plain_linear(x.mean({2, 3}), params, "fc");
  };
  expect_equal_steps(network);
}

// As torch.nn.BatchNorm2d folds it; in evaluation by running statistics.
class Residual : public ::testing::TestWithParam<bool> {};

TEST_P(Residual, SaysWhatPyTorchSays) {
  const tensor::CompositionScope scope(GetParam());
  const plan::Unit unit = models::make_unit("stem", "conv_norm",
                                            {{"in_channels", int64_t{3}},
                                             {"out_channels", int64_t{5}},
                                             {"kernel", int64_t{3}},
                                             {"stride", int64_t{1}},
                                             {"padding", int64_t{1}},
                                             {"pool", false},
                                             {"momentum", 0.1},
                                             {"eps", 1e-5}},
                                            {DType::kF32, {-1, 3, 7, 9}});
  const at::Tensor x = random_tensor({4, 3, 7, 9}, 1), w = random_tensor({5, 3, 3, 3}, 2);
  const at::Tensor gamma = random_tensor({5}, 3), beta = random_tensor({5}, 4);
  testing::NormedUnit ours(unit, {w, gamma, beta});
  ours.train(x);
  at::Tensor mean = at::zeros({5}), variance = at::zeros({5});
  const at::Tensor y = at::conv2d(x, w, {}, 1, 1);
  at::batch_norm(y, gamma, beta, mean, variance, true, 1.0, 1e-5, false);
  EXPECT_TRUE(at::allclose(ours.said(0), mean, 1e-5, 1e-6));
  EXPECT_TRUE(at::allclose(ours.said(1), variance, 1e-5, 1e-6));

  const at::Tensor evaluated = ours.evaluate(x);
  const at::Tensor expected = at::batch_norm(y, gamma, beta, mean, variance, false, 0.1, 1e-5, false).relu();
  EXPECT_TRUE(at::allclose(evaluated, expected, 1e-5, 1e-5));
  EXPECT_FALSE(at::allclose(evaluated, ours.evaluate(x.flip(0) * 2), 1e-3, 1e-3));
}

TEST_P(Residual, OneValuePerChannelIsRefused) {
  const tensor::CompositionScope scope(GetParam());
  tensor::OpContext context;
  context.training = true;
  try {
    tensor::batch_norm(at::ones({1, 2, 1, 1}), {at::ones({2}), 0}, {at::ones({2}), 1}, {}, context);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("one value per channel"), std::string::npos);
  }
}

INSTANTIATE_TEST_SUITE_P(Composed, Residual, ::testing::Bool());

}  // namespace
}  // namespace furrow::nn
