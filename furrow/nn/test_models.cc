// The networks of the tests with their plain libtorch form.
#include <fmt/format.h>

#include <numbers>

#include "furrow/models/kinds.h"
#include "furrow/nn/test_network_torch.h"
#include "furrow/tensor/test_support_torch.h"

namespace furrow::nn::testing {
namespace {

plan::Attributes linear_layer(int64_t in, int64_t out, const std::string& activation) {
  return {{"in", in}, {"out", out}, {"bias", true}, {"activation", activation}, {"flatten", true}};
}

Network over_tokens(const DecoderForm& form) {
  Network network;
  network.input = tokens({form.batch, form.time}, form.vocabulary, 1);
  network.targets = tokens({form.batch, form.time}, form.vocabulary, 2);
  if (form.documents) share_rows(&network);
  return network;
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
      at::scaled_dot_product_attention(parts[0], parts[1], parts[2], plain_mask(positions));
  const at::Tensor middle =
      x + plain_linear(mixed.transpose(1, 2).reshape({batch, time, width}), params, name + ".attn.c_proj");
  const at::Tensor hidden =
      at::gelu(plain_linear(plain_norm(middle, params, name + ".ln_2"), params, name + ".mlp.c_fc"));
  return middle + plain_linear(hidden, params, name + ".mlp.c_proj");
}

at::Tensor plain_rms_norm(const at::Tensor& x, const at::Tensor& weight) {
  return x * (x.square().mean(-1, true) + 1e-5).rsqrt() * weight;
}

constexpr double kTheta = 100, kFactor = 4, kContext = 32;

// theta^(-2 d / size), scaled as Hugging Face's functions of the same names do.
at::Tensor plain_frequencies(int64_t size, const std::string& scaling) {
  const at::Tensor powers = at::arange(size / 2, at::kDouble) * (-2.0 / static_cast<double>(size));
  const at::Tensor plain = at::pow(kTheta, powers);
  if (scaling == "none") return plain;
  if (scaling == "linear") return plain / kFactor;
  const at::Tensor turns = kContext * plain / (2 * std::numbers::pi);  // of the first context; from 1 to 4
  const at::Tensor smooth = (turns - 1) / 3;
  const at::Tensor mixed = (1 - smooth) * plain / kFactor + smooth * plain;
  return at::where(turns < 1, plain / kFactor, at::where(turns > 4, plain, mixed));
}

// Hugging Face's rotation: element d with element d + size / 2, by position * frequency.
at::Tensor rotated(const at::Tensor& x, const at::Tensor& frequencies, const at::Tensor& positions) {
  const int64_t size = x.size(3);  // [batch, heads, time, size]
  const at::Tensor angles = positions.to(at::kDouble).unsqueeze(-1) * frequencies;
  const at::Tensor table = at::cat({angles, angles}, 2).unsqueeze(1);  // [batch, 1, time, size]
  const at::Tensor turned = at::cat({-x.narrow(3, size / 2, size / 2), x.narrow(3, 0, size / 2)}, 3);
  return x * table.cos().to(x.scalar_type()) + turned * table.sin().to(x.scalar_type());
}

struct LlamaSizes {
  int64_t heads, kv_heads, head_dim;
  at::Tensor frequencies;
  at::Tensor positions;  // [batch, time]
};

at::Tensor plain_llama_block(const at::Tensor& x, const Tensors& params, const std::string& name,
                             const LlamaSizes& form) {
  const int64_t batch = x.size(0), time = x.size(1), size = form.head_dim;
  const auto heads = [&](const at::Tensor& y, int64_t count) {
    return y.view({batch, time, count, size}).transpose(1, 2);
  };
  const at::Tensor first = plain_rms_norm(x, params.at(name + ".input_layernorm.weight"));
  const at::Tensor q = heads(plain_linear(first, params, name + ".self_attn.q_proj"), form.heads);
  const at::Tensor k = heads(plain_linear(first, params, name + ".self_attn.k_proj"), form.kv_heads);
  const at::Tensor v = heads(plain_linear(first, params, name + ".self_attn.v_proj"), form.kv_heads);
  const int64_t group = form.heads / form.kv_heads;
  const at::Tensor mixed = at::scaled_dot_product_attention(
      rotated(q, form.frequencies, form.positions),
      rotated(k, form.frequencies, form.positions).repeat_interleave(group, 1), v.repeat_interleave(group, 1),
      plain_mask(form.positions));
  const at::Tensor middle = x + plain_linear(mixed.transpose(1, 2).reshape({batch, time, form.heads * size}),
                                             params, name + ".self_attn.o_proj");
  const at::Tensor second = plain_rms_norm(middle, params.at(name + ".post_attention_layernorm.weight"));
  const at::Tensor hidden = at::silu(plain_linear(second, params, name + ".mlp.gate_proj")) *
                            plain_linear(second, params, name + ".mlp.up_proj");
  return middle + plain_linear(hidden, params, name + ".mlp.down_proj");
}

}  // namespace

Network mlp_network(const std::vector<int64_t>& widths, const std::string& activation) {
  Network network;
  network.input = tensor::testing::random_tensor({20, 1, 6, 7}, 1);
  network.targets = tokens({20}, widths.back(), 2);
  int64_t in = 42;
  for (size_t i = 0; i < widths.size(); ++i) {
    const std::string name = fmt::format("fc{}", i + 1);
    const plan::Attributes layer = linear_layer(in, widths[i], i + 1 == widths.size() ? "none" : activation);
    if (i == 0)
      network.spec.units.push_back(models::make_unit(name, "linear", layer, {DType::kF32, {-1, 1, 6, 7}}));
    else
      append(&network.spec, name, "linear", layer);
    in = widths[i];
  }
  plan::validate(network.spec);
  network.plain = [=](const at::Tensor& input, const Tensors& params) {
    at::Tensor x = input.flatten(1);
    for (size_t i = 1; i <= widths.size(); ++i) {
      x = plain_linear(x, params, fmt::format("fc{}", i));
      if (i < widths.size()) x = activation == "relu" ? x.relu() : at::gelu(x);
    }
    return x;
  };
  return network;
}

Network gpt_network(const DecoderForm& form) {
  const std::string no_prefix;
  Network network = over_tokens(form);
  network.spec.units.push_back(models::make_unit("embed", "token_embedding",
                                                 {{"vocab", form.vocabulary},
                                                  {"context", form.time + 3},
                                                  {"width", form.width},
                                                  {"dropout", form.dropout},
                                                  {"prefix", no_prefix}},
                                                 {DType::kI64, {-1, form.time}}));
  for (const std::string name : {"h.0", "h.1"}) {
    append(&network.spec, name, "transformer_block",
           {{"width", form.width},
            {"heads", form.heads},
            {"layers", int64_t{2}},
            {"dropout", form.dropout},
            {"bias", form.bias}});
  }
  append(&network.spec, "lm_head", "lm_head",
         {{"vocab", form.vocabulary},
          {"width", form.width},
          {"bias", form.bias},
          {"tied_to", std::string(form.tied ? "wte.weight" : "")},
          {"prefix", no_prefix}});
  plan::validate(network.spec);
  const at::Tensor positions = positions_of(network);
  network.plain = [=](const at::Tensor& input, const Tensors& params) {
    at::Tensor x =
        at::embedding(params.at("wte.weight"), input) + at::embedding(params.at("wpe.weight"), positions);
    for (const std::string name : {"h.0", "h.1"}) x = plain_block(x, params, name, form.heads, positions);
    return at::linear(plain_norm(x, params, "ln_f"), params.at(form.tied ? "wte.weight" : "lm_head.weight"));
  };
  return network;
}

Network llama_network(const DecoderForm& form) {
  const std::string embedding = "model.embed_tokens", no_prefix;
  Network network = over_tokens(form);
  network.spec.units.push_back(models::make_unit(
      embedding, "embedding", {{"vocab", form.vocabulary}, {"width", form.width}, {"std", 0.5}},
      {DType::kI64, {-1, form.time}}));
  const int64_t size = form.head_dim > 0 ? form.head_dim : form.width / form.heads;
  const LlamaSizes sizes{form.heads, form.kv_heads, size, plain_frequencies(size, form.rope_scaling),
                         positions_of(network)};
  for (const std::string name : {"model.layers.0", "model.layers.1"}) {
    append(&network.spec, name, "llama_block",
           {{"width", form.width},
            {"heads", form.heads},
            {"kv_heads", form.kv_heads},
            {"ffn", form.ffn},
            {"layers", int64_t{2}},
            {"qkv_bias", form.qkv_bias},
            {"head_dim", form.head_dim},
            {"rope_theta", kTheta},
            {"rope_scaling", form.rope_scaling},
            {"rope_factor", kFactor},
            {"rope_low_freq_factor", 1.0},
            {"rope_high_freq_factor", 4.0},
            {"rope_original_context", static_cast<int64_t>(kContext)},
            {"eps", 1e-5}});
  }
  const std::string table = form.tied ? embedding + ".weight" : "";
  append(&network.spec, "lm_head", "llama_head",
         {{"vocab", form.vocabulary},
          {"width", form.width},
          {"eps", 1e-5},
          {"tied_to", table},
          {"prefix", no_prefix}});
  plan::validate(network.spec);
  network.plain = [=](const at::Tensor& input, const Tensors& params) {
    at::Tensor x = at::embedding(params.at(embedding + ".weight"), input);
    for (const std::string name : {"model.layers.0", "model.layers.1"})
      x = plain_llama_block(x, params, name, sizes);
    return at::linear(plain_rms_norm(x, params.at("model.norm.weight")),
                      params.at(table.empty() ? "lm_head.weight" : table));
  };
  return network;
}

}  // namespace furrow::nn::testing
