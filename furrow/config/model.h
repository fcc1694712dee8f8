// [model]: the architecture.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "furrow/config/field.h"

namespace furrow::config {

struct Model {
  std::string name = "mlp";
  std::vector<int64_t> hidden = {1024, 1024};
  std::string activation = "relu";
  int64_t layers = 4;
  int64_t heads = 4;
  int64_t width = 128;
  int64_t context = 0;
  double dropout = 0;
  bool tie_embeddings = true;
  bool bias = true;

  template <class V>
  static void fields(V& v) {
    constexpr Effect kRecipe = Effect::kRecipe;
    v("name", &Model::name,
      {.effect = kRecipe,
       .doc = "The architecture: mlp, convnet, gpt, or one that a program of yours adds."});
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
    v("layers", &Model::layers,
      {.effect = kRecipe,
       .min = 1,
       .max = 10000,
       .only_if = "model.name=gpt",
       .doc = "Number of transformer blocks."});
    v("heads", &Model::heads,
      {.effect = kRecipe,
       .min = 1,
       .only_if = "model.name=gpt",
       .doc = "Attention heads; must divide width."});
    v("width", &Model::width,
      {.effect = kRecipe, .min = 1, .only_if = "model.name=gpt", .doc = "Width of the residual stream."});
    v("context", &Model::context,
      {.effect = kRecipe,
       .min = 0,
       .only_if = "model.name=gpt",
       .doc = "Positions that the model has embeddings for. 0: [training] seq_len."});
    v("dropout", &Model::dropout,
      {.effect = kRecipe,
       .min = 0,
       .max = 1,
       .below_max = true,
       .only_if = "model.name=gpt",
       .doc = "Share of activations dropped in training: embeddings, attention and residual branches."});
    v("tie_embeddings", &Model::tie_embeddings,
      {.effect = kRecipe,
       .only_if = "model.name=gpt",
       .doc = "Use the token embedding as the output head's weight."});
    v("bias", &Model::bias,
      {.effect = kRecipe, .only_if = "model.name=gpt", .doc = "Biases in linear layers and layer norms."});
  }
  friend bool operator==(const Model&, const Model&) = default;
};

}  // namespace furrow::config
