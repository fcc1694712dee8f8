// One step of whole networks against plain libtorch autograd.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <string>
#include <tuple>

#include "furrow/models/kinds.h"
#include "furrow/nn/test_network_torch.h"
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

plan::Attributes linear_layer(int64_t in, int64_t out, const std::string& activation) {
  return {{"in", in}, {"out", out}, {"bias", true}, {"activation", activation}, {"flatten", true}};
}

TEST(Network, Mlp) {
  for (const std::string activation : {"relu", "gelu"})
    expect_equal_steps(testing::mlp_network({33, 24, 10}, activation));
}

// Delays of no time: 42 features to 100, and those to 30.
TEST(Network, DelaysThatSendMoreAndLess) {
  Network network;
  network.input = random_tensor({20, 1, 6, 7}, 1);
  network.targets = tokens({20}, 10, 2);
  const auto delay = [](int64_t bytes) {
    return plan::Attributes{
        {"forward_ms", 0.0}, {"backward_input_ms", 0.0}, {"backward_weight_ms", 0.0}, {"bytes", bytes}};
  };
  network.spec.units = {models::make_unit("d0", "delay", delay(400), {DType::kF32, {-1, 1, 6, 7}})};
  append(&network.spec, "d1", "delay", delay(120));
  append(&network.spec, "fc", "linear", linear_layer(30, 10, "none"));
  plan::validate(network.spec);
  network.plain = [](const at::Tensor& input, const Tensors& params) {
    const at::Tensor x = input.flatten(1);
    const at::Tensor wide = at::cat({x, x, x}, 1).slice(1, 0, 100) * params.at("d0.gain");
    return plain_linear(wide.slice(1, 0, 30) * params.at("d1.gain"), params, "fc");
  };
  expect_equal_steps(network);
}

TEST(Network, Convnet) {
  Network network;
  network.input = random_tensor({21, 1, 28, 28}, 1);
  network.targets = tokens({21}, 10, 2);
  const auto conv = [](int64_t in, int64_t out) {
    return plan::Attributes{{"in_channels", in},     {"out_channels", out}, {"kernel", int64_t{5}},
                            {"padding", int64_t{0}}, {"relu", true},        {"pool", true}};
  };
  network.spec.units.push_back(
      models::make_unit("conv1", "conv_relu_pool", conv(1, 6), {DType::kF32, {-1, 1, 28, 28}}));
  append(&network.spec, "conv2", "conv_relu_pool", conv(6, 16));
  append(&network.spec, "fc1", "linear", linear_layer(256, 120, "relu"));
  append(&network.spec, "fc2", "linear", linear_layer(120, 84, "relu"));
  append(&network.spec, "fc3", "linear", linear_layer(84, 10, "none"));
  network.plain = [](const at::Tensor& input, const Tensors& params) {
    at::Tensor x = input;
    for (const std::string name : {"conv1", "conv2"}) {
      x = at::max_pool2d(at::conv2d(x, params.at(name + ".weight"), params.at(name + ".bias")).relu(), 2);
    }
    x = plain_linear(x.flatten(1), params, "fc1").relu();
    return plain_linear(plain_linear(x, params, "fc2").relu(), params, "fc3");
  };
  expect_equal_steps(network);
}

class Gpt : public ::testing::TestWithParam<std::tuple<bool, bool, bool>> {};

TEST_P(Gpt, EqualsPlainAutograd) {
  testing::DecoderForm form;  // shorter than the context: later positions get zero
  std::tie(form.tied, form.bias, form.documents) = GetParam();
  expect_equal_steps(testing::gpt_network(form));
}

INSTANTIATE_TEST_SUITE_P(All, Gpt,
                         ::testing::Combine(::testing::Bool(), ::testing::Bool(), ::testing::Bool()));

}  // namespace
}  // namespace furrow::nn
