// One step of networks of single layers against plain libtorch autograd.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "furrow/models/kinds.h"
#include "furrow/nn/block_torch.h"
#include "furrow/nn/test_network_torch.h"
#include "furrow/plan/flat_layout.h"
#include "furrow/tensor/composition_torch.h"
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

at::Tensor plain_activation(const at::Tensor& x, const std::string& name) {
  if (name == "relu") return x.relu();
  if (name == "gelu") return at::gelu(x);
  if (name == "gelu_tanh") return at::gelu(x, "tanh");
  if (name == "silu") return at::silu(x);
  if (name == "softplus") return at::softplus(x);
  if (name == "tanh") return x.tanh();
  if (name == "sigmoid") return x.sigmoid();
  if (name == "leaky_relu") return at::leaky_relu(x, 0.2);
  EXPECT_EQ(name, "none");
  return x;
}

plan::Attributes linear(int64_t in, int64_t out, const std::string& activation, bool flatten) {
  return {{"in", in}, {"out", out}, {"bias", true}, {"activation", activation}, {"flatten", flatten}};
}

struct ConvForm {
  int64_t in, out, kernel, stride, padding;
  bool bias = true;
  std::string activation;
};

plan::Attributes conv(const ConvForm& form) {
  return {{"in_channels", form.in},       {"out_channels", form.out}, {"kernel", form.kernel},
          {"stride", form.stride},        {"padding", form.padding},  {"bias", form.bias},
          {"activation", form.activation}};
}

at::Tensor plain_conv(const at::Tensor& x, const Tensors& params, const std::string& name,
                      const ConvForm& form) {
  const at::Tensor bias = form.bias ? params.at(name + ".bias") : at::Tensor();
  return plain_activation(at::conv2d(x, params.at(name + ".weight"), bias, form.stride, form.padding),
                          form.activation);
}

plan::Attributes batch_norm(const std::string& activation) {
  return {{"momentum", 0.1}, {"eps", 1e-5}, {"activation", activation}};
}

at::Tensor plain_norm(const at::Tensor& x, const Tensors& params, const std::string& name,
                      const std::string& activation) {
  return plain_activation(at::batch_norm(x, params.at(name + ".weight"), params.at(name + ".bias"), {}, {},
                                         true, 0.1, 1e-5, false),
                          activation);
}

plan::Attributes pool(int64_t kernel, int64_t stride, int64_t padding) {
  return {{"kernel", kernel}, {"stride", stride}, {"padding", padding}};
}

class Layers : public ::testing::TestWithParam<std::string> {};

// Convolutions with strides, every pool and norm, with an activation in a convolution, in a linear layer and
// alone.
TEST_P(Layers, EqualPlainAutograd) {
  const std::string& name = GetParam();
  const ConvForm first{3, 16, 5, 2, 2, true, name}, second{16, 24, 3, 1, 1, false, "none"},
      third{24, 20, 3, 2, 1, true, "none"};
  Network network;
  network.input = random_tensor({6, 3, 27, 22}, 1);
  network.targets = tokens({6}, 10, 2);
  network.spec.units.push_back(models::make_unit("c1", "conv", conv(first), {DType::kF32, {-1, 3, 27, 22}}));
  append(&network.spec, "n1", "group_norm", {{"groups", int64_t{4}}, {"eps", 1e-5}});
  append(&network.spec, "p1", "max_pool", pool(2, 0, 0));
  append(&network.spec, "c2", "conv", conv(second));
  append(&network.spec, "p2", "avg_pool", pool(3, 2, 1));
  append(&network.spec, "c3", "conv", conv(third));
  append(&network.spec, "d", "dropout", {{"p", 0.0}});
  append(&network.spec, "g", "global_avg_pool", {});
  append(&network.spec, "n2", "layer_norm", {{"eps", 1e-5}, {"bias", true}});
  append(&network.spec, "fc1", "linear", linear(20, 18, name, true));
  append(&network.spec, "n3", "layer_norm", {{"eps", 1e-5}, {"bias", false}});
  if (name != "none")
    append(&network.spec, "a", "activation",
           {{"activation", name}, {"slope", name == "leaky_relu" ? 0.2 : 0.01}});
  append(&network.spec, "fc2", "linear", linear(18, 10, "none", true));
  plan::validate(network.spec);
  network.plain = [=](const at::Tensor& input, const Tensors& params) {
    at::Tensor x = plain_conv(input, params, "c1", first);
    x = at::group_norm(x, 4, params.at("n1.weight"), params.at("n1.bias"));
    x = plain_conv(at::max_pool2d(x, 2), params, "c2", second);
    x = plain_conv(at::avg_pool2d(x, 3, 2, 1), params, "c3", third).mean({2, 3});
    x = at::layer_norm(x, {20}, params.at("n2.weight"), params.at("n2.bias"));
    x = plain_activation(plain_linear(x, params, "fc1"), name);
    x = plain_activation(at::layer_norm(x, {18}, params.at("n3.weight")), name);
    return plain_linear(x, params, "fc2");
  };
  expect_equal_steps(network);
}

// A norm takes the mean away, so that the gradient of a bias right before it would be what rounding leaves:
// there is none.
TEST_P(Layers, BehindBatchNormsEqualPlainAutograd) {
  const std::string& name = GetParam();
  const ConvForm first{3, 21, 3, 1, 1, false, "none"}, second{21, 18, 3, 2, 1, true, "none"};
  Network network;
  network.input = random_tensor({8, 3, 7, 6}, 1);
  network.targets = tokens({8}, 10, 2);
  network.spec.units.push_back(models::make_unit("c1", "conv", conv(first), {DType::kF32, {-1, 3, 7, 6}}));
  append(&network.spec, "n1", "batch_norm", batch_norm(name));
  append(&network.spec, "c2", "conv", conv(second));
  append(&network.spec, "g", "global_avg_pool", {});
  append(&network.spec, "fc", "linear", linear(18, 10, "none", true));
  network.plain = [=](const at::Tensor& input, const Tensors& params) {
    const at::Tensor x = plain_norm(plain_conv(input, params, "c1", first), params, "n1", name);
    return plain_linear(plain_conv(x, params, "c2", second).mean({2, 3}), params, "fc");
  };
  expect_equal_steps(network);
}

TEST_P(Layers, BehindBatchNormsOfRowsEqualPlainAutograd) {
  const std::string& name = GetParam();
  plan::Attributes first = linear(20, 18, "none", true);
  first["bias"] = false;
  Network network;
  network.input = random_tensor({40, 20}, 1);
  network.targets = tokens({40}, 10, 2);
  network.spec.units.push_back(models::make_unit("fc1", "linear", first, {DType::kF32, {-1, 20}}));
  append(&network.spec, "n1", "batch_norm", batch_norm(name));
  append(&network.spec, "fc2", "linear", linear(18, 10, "none", true));
  network.plain = [name](const at::Tensor& input, const Tensors& params) {
    return plain_linear(plain_norm(plain_linear(input, params, "fc1"), params, "n1", name), params, "fc2");
  };
  expect_equal_steps(network);
}

INSTANTIATE_TEST_SUITE_P(Activations, Layers,
                         ::testing::Values("none", "relu", "gelu", "gelu_tanh", "silu", "softplus", "tanh",
                                           "sigmoid", "leaky_relu"),
                         [](const auto& info) { return info.param; });

// Over rows of tokens too: a convolution's layers are of images alone, these are not.
TEST(SingleLayers, OfSequencesEqualPlainAutograd) {
  Network network;
  network.input = random_tensor({5, 7, 12}, 1);
  network.targets = tokens({5, 7}, 9, 2);
  network.spec.units.push_back(
      models::make_unit("n", "layer_norm", {{"eps", 1e-3}, {"bias", true}}, {DType::kF32, {-1, 7, 12}}));
  append(&network.spec, "fc1", "linear", linear(12, 16, "none", false));
  append(&network.spec, "a", "activation", {{"activation", std::string("silu")}, {"slope", 0.01}});
  append(&network.spec, "fc2", "linear", linear(16, 9, "none", false));
  network.plain = [](const at::Tensor& input, const Tensors& params) {
    const at::Tensor x = at::layer_norm(input, {12}, params.at("n.weight"), params.at("n.bias"), 1e-3);
    return plain_linear(at::silu(plain_linear(x, params, "fc1")), params, "fc2");
  };
  expect_equal_steps(network);
}

// As torch.nn.BatchNorm1d and 2d fold it; in evaluation by running statistics.
TEST(SingleLayers, BatchNormSaysWhatPyTorchSays) {
  for (const std::vector<int64_t>& sizes : {std::vector<int64_t>{7, 5}, {4, 5, 3, 6}}) {
    for (const bool composed : {false, true}) {
      const tensor::CompositionScope scope(composed);
      Shape shape(sizes.begin(), sizes.end());
      shape[0] = -1;
      const plan::Unit unit = models::make_unit("n", "batch_norm", batch_norm("none"), {DType::kF32, shape});
      const at::Tensor x = random_tensor(sizes, 1) * 2 + 1;
      const at::Tensor gamma = random_tensor({5}, 3), beta = random_tensor({5}, 4);
      testing::NormedUnit ours(unit, {gamma, beta});
      const at::Tensor trained = ours.train(x);
      at::Tensor mean = at::zeros({5}), variance = at::zeros({5});
      const at::Tensor expected = at::batch_norm(x, gamma, beta, mean, variance, true, 1.0, 1e-5, false);
      EXPECT_TRUE(at::allclose(trained, expected, 1e-5, 1e-5));
      EXPECT_TRUE(at::allclose(ours.said(0), mean, 1e-5, 1e-6));
      EXPECT_TRUE(at::allclose(ours.said(1), variance, 1e-5, 1e-6));
      EXPECT_FALSE(at::allclose(ours.said(1), x.transpose(0, 1).flatten(1).var(1, false), 1e-5, 1e-6))
          << "control";
      EXPECT_TRUE(at::allclose(ours.evaluate(x * 3),
                               at::batch_norm(x * 3, gamma, beta, mean, variance, false, 0.1, 1e-5, false),
                               1e-5, 1e-5));
    }
  }
}

// The mask of a unit is a function of its name and the samples, whatever else is in the microbatch.
TEST(SingleLayers, DropoutGoesByTheSample) {
  const auto make = [](const std::string& name) {
    return make_block(models::make_unit(name, "dropout", {{"p", 0.25}}, {DType::kF32, {-1, 3, 40, 10}}));
  };
  const at::Tensor x = at::ones({4, 3, 40, 10});
  for (const bool composed : {false, true}) {
    const tensor::CompositionScope scope(composed);
    const std::vector<int64_t> ids = {7, 8, 9, 10};
    tensor::OpContext context;
    context.training = true;
    context.seed = 3;
    context.sample_ids = ids;
    const at::Tensor y = make("drop")->forward(x, {}, context);
    const double kept = y.ne(0).to(at::kDouble).mean().item<double>();
    EXPECT_NEAR(kept, 0.75, 0.03);
    EXPECT_TRUE(at::allclose(y.masked_select(y.ne(0)), at::scalar_tensor(1 / 0.75)));
    EXPECT_FALSE(at::equal(y, make("other")->forward(x, {}, context)));
    context.sample_ids = std::span(ids).subspan(2);
    EXPECT_TRUE(at::equal(y.narrow(0, 2, 2), make("drop")->forward(x.narrow(0, 0, 2), {}, context)));
    const at::Tensor apart = x.narrow(0, 0, 2).contiguous(at::MemoryFormat::ChannelsLast);
    EXPECT_TRUE(at::equal(y.narrow(0, 2, 2), make("drop")->forward(apart, {}, context))) << "as it lies";
    context.training = false;
    EXPECT_TRUE(at::equal(make("drop")->forward(x, {}, context), x));
  }
}

}  // namespace
}  // namespace furrow::nn
