// One step of llama, rnn and lstm against plain libtorch autograd.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include "furrow/models/kinds.h"
#include "furrow/nn/block_torch.h"
#include "furrow/nn/test_network_torch.h"
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

constexpr int64_t kVocabulary = 17, kTime = 9, kBatch = 5;

Network over_tokens() {
  Network network;
  network.input = tokens({kBatch, kTime}, kVocabulary, 1);
  network.targets = tokens({kBatch, kTime}, kVocabulary, 2);
  return network;
}

void append_embedding(plan::ModelSpec* spec, const std::string& name, int64_t width) {
  spec->units.push_back(models::make_unit(name, "embedding",
                                          {{"vocab", kVocabulary}, {"width", width}, {"std", 0.5}},
                                          {DType::kI64, {-1, kTime}}));
}

class LlamaForms : public ::testing::TestWithParam<std::tuple<bool, int64_t, bool>> {};

TEST_P(LlamaForms, EqualPlainAutograd) {
  testing::DecoderForm form;
  std::tie(form.tied, form.kv_heads, form.documents) = GetParam();
  expect_equal_steps(testing::llama_network(form));
}

INSTANTIATE_TEST_SUITE_P(All, LlamaForms,
                         ::testing::Combine(::testing::Bool(), ::testing::Values(1, 2, 4),
                                            ::testing::Bool()));

// Qwen2's: q, k and v with biases.
TEST(Llama, WithBiasesEqualsPlainAutograd) {
  testing::DecoderForm form;
  form.kv_heads = 2;
  form.qkv_bias = true;
  for (const bool tied : {true, false}) {
    form.tied = tied;
    const Network network = testing::llama_network(form);
    EXPECT_EQ(testing::initial(network.spec).count("model.layers.1.self_attn.v_proj.bias"), 1U);
    expect_equal_steps(network);
  }
}

// Heads wider and narrower than their share of the width, and scaled positions.
TEST(Llama, HeadsOfAnyWidthEqualPlainAutograd) {
  testing::DecoderForm form;
  form.kv_heads = 2;
  for (const int64_t head_dim : {20, 6}) {
    for (const char* scaling : {"none", "linear", "llama3"}) {
      form.head_dim = head_dim;
      form.rope_scaling = scaling;
      expect_equal_steps(testing::llama_network(form));
    }
  }
}

// The cell of PyTorch's tutorials, a step at a time.
at::Tensor plain_rnn(const at::Tensor& x, const Tensors& params, const std::string& name, int64_t hidden) {
  at::Tensor h = at::zeros({x.size(0), hidden}, x.options());
  std::vector<at::Tensor> outputs;
  for (int64_t t = 0; t < x.size(1); ++t) {
    const at::Tensor combined = at::cat({x.select(1, t), h}, 1);
    outputs.push_back(plain_linear(combined, params, name + ".i2o"));
    h = plain_linear(combined, params, name + ".i2h").tanh();
  }
  return at::stack(outputs, 1);
}

TEST(Rnn, EqualsPlainAutograd) {
  Network network = over_tokens();
  append_embedding(&network.spec, "embed", 20);
  append(&network.spec, "rnn.0", "rnn", {{"in", int64_t{20}}, {"hidden", int64_t{37}}, {"out", int64_t{24}}});
  append(&network.spec, "rnn.1", "rnn", {{"in", int64_t{24}}, {"hidden", int64_t{12}}, {"out", kVocabulary}});
  plan::validate(network.spec);
  network.plain = [](const at::Tensor& input, const Tensors& params) {
    const at::Tensor x = at::embedding(params.at("embed.weight"), input);
    return plain_rnn(plain_rnn(x, params, "rnn.0", 37), params, "rnn.1", 12);
  };
  expect_equal_steps(network);
}

at::Tensor plain_lstm(const at::Tensor& x, const Tensors& params, const std::string& name, int64_t hidden) {
  at::Tensor h = at::zeros({x.size(0), hidden}, x.options()), c = h;
  std::vector<at::Tensor> outputs;
  for (int64_t t = 0; t < x.size(1); ++t) {
    const auto gates = plain_linear(at::cat({x.select(1, t), h}, 1), params, name + ".i2h").chunk(4, 1);
    c = gates[1].sigmoid() * c + gates[0].sigmoid() * gates[2].tanh();
    h = gates[3].sigmoid() * c.tanh();
    outputs.push_back(h);
  }
  return at::stack(outputs, 1);
}

TEST(Lstm, EqualsPlainAutograd) {
  Network network = over_tokens();
  append_embedding(&network.spec, "embed", 20);
  append(&network.spec, "lstm.0", "lstm", {{"in", int64_t{20}}, {"hidden", int64_t{37}}});
  append(&network.spec, "lstm.1", "lstm", {{"in", int64_t{37}}, {"hidden", int64_t{24}}});
  append(&network.spec, "h2o", "linear",
         {{"in", int64_t{24}},
          {"out", kVocabulary},
          {"bias", true},
          {"activation", std::string("none")},
          {"flatten", false}});
  plan::validate(network.spec);
  network.plain = [](const at::Tensor& input, const Tensors& params) {
    const at::Tensor x = at::embedding(params.at("embed.weight"), input);
    return plain_linear(plain_lstm(plain_lstm(x, params, "lstm.0", 37), params, "lstm.1", 24), params, "h2o");
  };
  expect_equal_steps(network);
}

// PyTorch's own layer, whose two matrices are the halves of ours and whose two biases add up to it.
TEST(Lstm, IsTheLstmOfLibtorch) {
  const int64_t in = 6, hidden = 10;
  const at::Tensor x = random_tensor({3, 5, in}, 1), both = random_tensor({4 * hidden, in + hidden}, 2, 0.3),
                   bias = random_tensor({4 * hidden}, 3, 0.3), zeros = at::zeros({1, 3, hidden});
  const auto theirs = at::lstm(x, {zeros, zeros},
                               {both.narrow(1, 0, in).contiguous(), both.narrow(1, in, hidden).contiguous(),
                                bias, at::zeros({4 * hidden})},
                               true, 1, 0.0, false, false, true);
  const Tensors params{{"lstm.i2h.weight", both}, {"lstm.i2h.bias", bias}};
  EXPECT_LT(tensor::testing::distance(std::get<0>(theirs), plain_lstm(x, params, "lstm", hidden)), 1e-6);
}

// What a layer with dropout gives is what it gives without, under the mask that its name and samples say.
TEST(Recurrent, DropoutMasksWhatALayerGives) {
  for (const std::string kind : {"lstm", "rnn"}) {
    const auto make = [&](double dropout) {
      plan::Attributes attributes = {{"in", int64_t{6}}, {"hidden", int64_t{16}}, {"dropout", dropout}};
      if (kind == "rnn") attributes["out"] = int64_t{12};
      return models::make_unit("layer", kind, attributes, {DType::kF32, {-1, 7, 6}});
    };
    const plan::Unit unit = make(0.25);
    std::vector<tensor::Param> params;
    for (const plan::Parameter& parameter : unit.parameters)
      params.push_back(
          {random_tensor(parameter.shape, 3 + params.size(), 0.3), static_cast<int>(params.size())});
    const std::vector<int64_t> ids = {4, 9, 2};
    tensor::OpContext context;
    context.training = true;
    context.seed = 5;
    context.sample_ids = ids;
    const at::Tensor x = random_tensor({3, 7, 6}, 1);
    const at::Tensor plain = make_block(make(0))->forward(x, params, context);
    const at::Tensor dropped = make_block(unit)->forward(x, params, context);
    EXPECT_TRUE(at::equal(dropped, tensor::dropout(plain, 0.25, "layer.dropout", context))) << kind;
    EXPECT_NEAR(dropped.eq(0).to(at::kDouble).mean().item<double>(), 0.25, 0.1) << kind;
    context.training = false;
    EXPECT_TRUE(at::equal(make_block(unit)->forward(x, params, context), plain)) << kind;
  }
}

}  // namespace
}  // namespace furrow::nn
