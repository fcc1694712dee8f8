// One step of llama, rnn and lstm against plain libtorch autograd.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

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

at::Tensor plain_rms_norm(const at::Tensor& x, const at::Tensor& weight) {
  return x * (x.square().mean(-1, true) + 1e-5).rsqrt() * weight;
}

// Hugging Face's rotation: element d with element d + size / 2, by position * theta^(-2 d / size).
at::Tensor rotated(const at::Tensor& x, double theta, const at::Tensor& positions) {
  const int64_t size = x.size(3);  // [batch, heads, time, size]
  const at::Tensor powers =
      at::arange(size / 2, x.options().dtype(at::kDouble)) * (-2.0 / static_cast<double>(size));
  const at::Tensor angles = positions.to(at::kDouble).unsqueeze(-1) * at::pow(theta, powers);
  const at::Tensor table = at::cat({angles, angles}, 2).unsqueeze(1);  // [batch, 1, time, size]
  const at::Tensor turned = at::cat({-x.narrow(3, size / 2, size / 2), x.narrow(3, 0, size / 2)}, 3);
  return x * table.cos().to(x.scalar_type()) + turned * table.sin().to(x.scalar_type());
}

struct LlamaForm {
  int64_t width, heads, kv_heads, ffn;
  double theta;
  at::Tensor positions;  // [batch, time]
};

at::Tensor plain_llama_block(const at::Tensor& x, const Tensors& params, const std::string& name,
                             const LlamaForm& form) {
  const int64_t batch = x.size(0), time = x.size(1), size = form.width / form.heads;
  const auto heads = [&](const at::Tensor& y, int64_t count) {
    return y.view({batch, time, count, size}).transpose(1, 2);
  };
  const at::Tensor first = plain_rms_norm(x, params.at(name + ".input_layernorm.weight"));
  const at::Tensor q = heads(plain_linear(first, params, name + ".self_attn.q_proj"), form.heads);
  const at::Tensor k = heads(plain_linear(first, params, name + ".self_attn.k_proj"), form.kv_heads);
  const at::Tensor v = heads(plain_linear(first, params, name + ".self_attn.v_proj"), form.kv_heads);
  const int64_t group = form.heads / form.kv_heads;
  const at::Tensor mixed =
      at::scaled_dot_product_attention(rotated(q, form.theta, form.positions),
                                       rotated(k, form.theta, form.positions).repeat_interleave(group, 1),
                                       v.repeat_interleave(group, 1), testing::plain_mask(form.positions));
  const at::Tensor middle = x + plain_linear(mixed.transpose(1, 2).reshape({batch, time, form.width}), params,
                                             name + ".self_attn.o_proj");
  const at::Tensor second = plain_rms_norm(middle, params.at(name + ".post_attention_layernorm.weight"));
  const at::Tensor hidden = at::silu(plain_linear(second, params, name + ".mlp.gate_proj")) *
                            plain_linear(second, params, name + ".mlp.up_proj");
  return middle + plain_linear(hidden, params, name + ".mlp.down_proj");
}

class Llama : public ::testing::TestWithParam<std::tuple<bool, int64_t, bool>> {};

TEST_P(Llama, EqualsPlainAutograd) {
  const auto [tied, kv_heads, documents] = GetParam();
  const std::string embedding = "model.embed_tokens", no_prefix;
  Network network = over_tokens();
  if (documents) testing::share_rows(&network);
  const LlamaForm form{32, 4, kv_heads, 44, 100, testing::positions_of(network)};
  append_embedding(&network.spec, embedding, form.width);
  for (const std::string name : {"model.layers.0", "model.layers.1"}) {
    append(&network.spec, name, "llama_block",
           {{"width", form.width},
            {"heads", form.heads},
            {"kv_heads", form.kv_heads},
            {"ffn", form.ffn},
            {"layers", int64_t{2}},
            {"rope_theta", form.theta},
            {"eps", 1e-5}});
  }
  append(&network.spec, "lm_head", "llama_head",
         {{"vocab", kVocabulary},
          {"width", form.width},
          {"eps", 1e-5},
          {"tied_to", std::string(tied ? embedding + ".weight" : "")},
          {"prefix", no_prefix}});
  plan::validate(network.spec);
  network.plain = [&](const at::Tensor& input, const Tensors& params) {
    at::Tensor x = at::embedding(params.at(embedding + ".weight"), input);
    for (const std::string name : {"model.layers.0", "model.layers.1"})
      x = plain_llama_block(x, params, name, form);
    return at::linear(plain_rms_norm(x, params.at("model.norm.weight")),
                      params.at(tied ? embedding + ".weight" : "lm_head.weight"));
  };
  expect_equal_steps(network);
}

INSTANTIATE_TEST_SUITE_P(All, Llama,
                         ::testing::Combine(::testing::Bool(), ::testing::Values(1, 2, 4),
                                            ::testing::Bool()));

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

}  // namespace
}  // namespace furrow::nn
