// [model]: the architecture.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "furrow/config/field.h"

namespace furrow::config {

struct Model {
  std::string name = "mlp";
  std::vector<std::string> units;
  std::vector<int64_t> hidden = {1024, 1024};
  std::string activation = "relu";
  std::string gelu = "exact";
  int64_t latent = 100;
  std::vector<int64_t> generator_hidden = {256};
  std::vector<int64_t> discriminator_hidden = {256};
  int64_t layers = 4;
  int64_t heads = 4;
  int64_t kv_heads = 0;
  int64_t width = 128;
  int64_t ffn_width = 0;
  int64_t context = 0;
  int64_t vocab_size = 0;
  double dropout = 0;
  int64_t head_dim = 0;
  double rope_theta = 10000;
  std::string rope_scaling = "none";
  double rope_factor = 1;
  double rope_low_freq_factor = 1;
  double rope_high_freq_factor = 4;
  int64_t rope_original_context = 8192;
  double norm_eps = 1e-5;
  bool tie_embeddings = true;
  bool bias = true;
  bool qkv_bias = false;

  template <class V>
  static void fields(V& v) {
    chains(v);
    sizes(v);
    details(v);
    positions(v);
  }
  friend bool operator==(const Model&, const Model&) = default;

 private:
  template <class V>
  static void chains(V& v) {
    constexpr Effect kRecipe = Effect::kRecipe;
    v("name", &Model::name,
      {.effect = kRecipe,
       .doc = "The architecture: mlp, convnet, gpt, llama, rnn, lstm, resnet20, resnet18, gan, blocks (units "
              "listed one by one), or "
              "one that a program of yours adds."});
    v("units", &Model::units,
      {.effect = kRecipe,
       .only_if = "model.name=blocks",
       .doc = "The network, a unit each: \"name: kind key=value ...\". What follows from the unit before or "
              "from the "
              "data may be left out; `classes` stands for their number."});
    v("hidden", &Model::hidden,
      {.effect = kRecipe,
       .min = 1,
       .only_if = "model.name=mlp",
       .doc = "Widths of the hidden layers, first to last."});
    v("activation", &Model::activation,
      {.effect = kRecipe,
       .choices = "relu|gelu",
       .only_if = "model.name=mlp",
       .doc = "After each hidden layer."});
    v("latent", &Model::latent,
      {.effect = kRecipe,
       .min = 1,
       .only_if = "model.name=gan",
       .doc = "Numbers of noise that the generator makes a sample of."});
    v("generator_hidden", &Model::generator_hidden,
      {.effect = kRecipe,
       .min = 1,
       .only_if = "model.name=gan",
       .doc = "Widths of the generator's hidden layers, first to last."});
    v("discriminator_hidden", &Model::discriminator_hidden,
      {.effect = kRecipe, .min = 1, .only_if = "model.name=gan", .doc = "The same of the discriminator."});
    v("gelu", &Model::gelu,
      {.effect = kRecipe,
       .choices = "exact|tanh",
       .only_if = "model.name=gpt",
       .doc = "exact: x Phi(x); tanh: its approximation, which the published GPT-2 was trained with."});
  }

  template <class V>
  static void sizes(V& v) {
    constexpr Effect kRecipe = Effect::kRecipe;
    v("layers", &Model::layers,
      {.effect = kRecipe,
       .min = 1,
       .max = 10000,
       .only_if = "model.name=gpt|llama|rnn|lstm",
       .doc = "Number of transformer blocks or recurrent layers."});
    v("heads", &Model::heads,
      {.effect = kRecipe,
       .min = 1,
       .only_if = "model.name=gpt|llama",
       .doc = "Attention heads; must divide width unless head_dim says how wide each is."});
    v("kv_heads", &Model::kv_heads,
      {.effect = kRecipe,
       .min = 0,
       .only_if = "model.name=llama",
       .doc = "Heads of keys and values, each shared by heads / kv_heads query heads. 0: as many as heads."});
    v("head_dim", &Model::head_dim,
      {.effect = kRecipe,
       .min = 0,
       .only_if = "model.name=llama",
       .doc = "Width of each head, an even number. 0: width / heads."});
    v("width", &Model::width,
      {.effect = kRecipe,
       .min = 1,
       .only_if = "model.name=gpt|llama|rnn|lstm",
       .doc = "Width of the residual stream; of rnn and lstm the size of embedding and state."});
    v("ffn_width", &Model::ffn_width,
      {.effect = kRecipe,
       .min = 0,
       .only_if = "model.name=llama",
       .doc = "Width of the feed-forward layer. 0: 8/3 of width, up to a multiple of 32."});
    v("context", &Model::context,
      {.effect = kRecipe,
       .min = 0,
       .only_if = "model.name=gpt|blocks",
       .doc =
           "Positions that the model has embeddings for; of blocks those of a token_embedding that does not "
           "say. 0: [training] seq_len."});
    v("vocab_size", &Model::vocab_size,
      {.effect = kRecipe,
       .min = 0,
       .only_if = "model.name=gpt|llama|rnn|lstm",
       .doc =
           "Rows of the embedding and of the output. 0: as many as the data has tokens; more of them pad the "
           "vocabulary, and with it `furrow plan` needs no data."});
  }

  template <class V>
  static void details(V& v) {
    constexpr Effect kRecipe = Effect::kRecipe;
    v("dropout", &Model::dropout,
      {.effect = kRecipe,
       .min = 0,
       .max = 1,
       .below_max = true,
       .only_if = "model.name=gpt|rnn|lstm",
       .doc = "Share of activations dropped in training: of gpt embeddings, attention and residual branches, "
              "of rnn and lstm the outputs of all layers but the last, as PyTorch's layers do."});
    v("norm_eps", &Model::norm_eps,
      {.effect = kRecipe,
       .min = 0,
       .above_min = true,
       .only_if = "model.name=llama",
       .doc = "Added to the mean square in the norms."});
    v("tie_embeddings", &Model::tie_embeddings,
      {.effect = kRecipe,
       .only_if = "model.name=gpt|llama",
       .doc = "Use the token embedding as the output head's weight."});
    v("bias", &Model::bias,
      {.effect = kRecipe, .only_if = "model.name=gpt", .doc = "Biases in linear layers and layer norms."});
    v("qkv_bias", &Model::qkv_bias,
      {.effect = kRecipe,
       .only_if = "model.name=llama",
       .doc = "Biases in the projections to queries, keys and values, as Qwen2 has them."});
  }

  template <class V>
  static void positions(V& v) {
    constexpr Effect kRecipe = Effect::kRecipe;
    v("rope_theta", &Model::rope_theta,
      {.effect = kRecipe,
       .min = 0,
       .above_min = true,
       .only_if = "model.name=llama",
       .doc = "Base of the wavelengths of the rotary positions."});
    v("rope_scaling", &Model::rope_scaling,
      {.effect = kRecipe,
       .choices = "none|linear|llama3",
       .only_if = "model.name=llama",
       .doc =
           "Longer wavelengths, for more positions than a model was first trained with. linear: all of them "
           "rope_factor times; llama3: Llama 3.1's, the long ones alone."});
    v("rope_factor", &Model::rope_factor,
      {.effect = kRecipe,
       .min = 1,
       .only_if = "model.rope_scaling=linear|llama3",
       .doc = "How many times longer."});
    v("rope_low_freq_factor", &Model::rope_low_freq_factor,
      {.effect = kRecipe,
       .min = 0,
       .above_min = true,
       .only_if = "model.rope_scaling=llama3",
       .doc = "Wavelengths above rope_original_context / this are rope_factor times longer."});
    v("rope_high_freq_factor", &Model::rope_high_freq_factor,
      {.effect = kRecipe,
       .min = 0,
       .above_min = true,
       .only_if = "model.rope_scaling=llama3",
       .doc = "Those below rope_original_context / this stay; between the two the change is gradual."});
    v("rope_original_context", &Model::rope_original_context,
      {.effect = kRecipe,
       .min = 1,
       .only_if = "model.rope_scaling=llama3",
       .doc = "Positions that the model was first trained with."});
  }
};

}  // namespace furrow::config
