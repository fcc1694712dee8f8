// One step of whole networks against plain libtorch autograd.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <string>

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
  for (const std::string activation : {"relu", "gelu"}) {
    Network network;
    network.input = random_tensor({20, 1, 6, 7}, 1);
    network.targets = tokens({20}, 10, 2);
    network.spec.units.push_back(
        models::make_unit("fc1", "linear", linear_layer(42, 33, activation), {DType::kF32, {-1, 1, 6, 7}}));
    append(&network.spec, "fc2", "linear", linear_layer(33, 24, activation));
    append(&network.spec, "fc3", "linear", linear_layer(24, 10, "none"));
    network.plain = [&](const at::Tensor& input, const Tensors& params) {
      const auto act = [&](const at::Tensor& x) { return activation == "relu" ? x.relu() : at::gelu(x); };
      const at::Tensor x = act(plain_linear(input.flatten(1), params, "fc1"));
      return plain_linear(act(plain_linear(x, params, "fc2")), params, "fc3");
    };
    expect_equal_steps(network);
  }
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

at::Tensor plain_norm(const at::Tensor& x, const Tensors& params, const std::string& name) {
  const auto bias = params.find(name + ".bias");
  return at::layer_norm(x, {x.size(-1)}, params.at(name + ".weight"),
                        bias == params.end() ? at::Tensor() : bias->second, 1e-5);
}

at::Tensor plain_block(const at::Tensor& x, const Tensors& params, const std::string& name, int64_t heads,
                       const at::Tensor& positions) {
  const int64_t batch = x.size(0), time = x.size(1), width = x.size(2);
  const at::Tensor qkv = plain_linear(plain_norm(x, params, name + ".ln_1"), params, name + ".attn.c_attn");
  const auto parts = qkv.view({batch, time, 3, heads, width / heads}).permute({2, 0, 3, 1, 4});
  const at::Tensor mixed =
      at::scaled_dot_product_attention(parts[0], parts[1], parts[2], testing::plain_mask(positions));
  const at::Tensor middle =
      x + plain_linear(mixed.transpose(1, 2).reshape({batch, time, width}), params, name + ".attn.c_proj");
  const at::Tensor hidden =
      at::gelu(plain_linear(plain_norm(middle, params, name + ".ln_2"), params, name + ".mlp.c_fc"));
  return middle + plain_linear(hidden, params, name + ".mlp.c_proj");
}

class Gpt : public ::testing::TestWithParam<std::tuple<bool, bool, bool>> {};

TEST_P(Gpt, EqualsPlainAutograd) {
  const auto [tied, bias, documents] = GetParam();
  const int64_t vocab = 17, context = 12, width = 32, heads = 4, layers = 2;
  const std::string no_prefix;
  Network network;
  network.input = tokens({5, 9}, vocab, 1);  // shorter than the context: later positions get zero
  network.targets = tokens({5, 9}, vocab, 2);
  if (documents) testing::share_rows(&network);
  const at::Tensor positions = testing::positions_of(network);
  network.spec.units.push_back(models::make_unit(
      "embed", "token_embedding",
      {{"vocab", vocab}, {"context", context}, {"width", width}, {"dropout", 0.0}, {"prefix", no_prefix}},
      {DType::kI64, {-1, 9}}));
  for (const std::string name : {"h.0", "h.1"}) {
    append(&network.spec, name, "transformer_block",
           {{"width", width}, {"heads", heads}, {"layers", layers}, {"dropout", 0.0}, {"bias", bias}});
  }
  append(&network.spec, "lm_head", "lm_head",
         {{"vocab", vocab},
          {"width", width},
          {"bias", bias},
          {"tied_to", std::string(tied ? "wte.weight" : "")},
          {"prefix", no_prefix}});
  plan::validate(network.spec);
  network.plain = [&](const at::Tensor& input, const Tensors& params) {
    at::Tensor x =
        at::embedding(params.at("wte.weight"), input) + at::embedding(params.at("wpe.weight"), positions);
    for (const std::string name : {"h.0", "h.1"}) x = plain_block(x, params, name, heads, positions);
    return at::linear(plain_norm(x, params, "ln_f"), params.at(tied ? "wte.weight" : "lm_head.weight"));
  };
  expect_equal_steps(network);
}

INSTANTIATE_TEST_SUITE_P(All, Gpt,
                         ::testing::Combine(::testing::Bool(), ::testing::Bool(), ::testing::Bool()));

}  // namespace
}  // namespace furrow::nn
