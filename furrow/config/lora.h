// [lora]: low-rank adapters beside frozen layers.  rank, alpha and dropout are torchtitan's names,
// target_modules is PEFT's.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "furrow/config/field.h"

namespace furrow::config {

struct Lora {
  int64_t rank = 0;
  double alpha = 16;
  double dropout = 0;
  std::vector<std::string> target_modules = {"*"};
  std::string adapter_path = {};

  template <class V>
  static void fields(V& v) {
    constexpr Effect kRecipe = Effect::kRecipe;
    v("rank", &Lora::rank,
      {.effect = kRecipe,
       .min = 0,
       .max = 65536,
       .doc =
           "Above 0: every parameter is frozen, and layers get two thin trained matrices of this rank beside "
           "their weight. The exported model has them merged; adapter/ has them alone. 0: none."});
    v("alpha", &Lora::alpha,
      {.effect = kRecipe, .min = 0, .above_min = true, .doc = "Adapters count alpha / rank times."});
    v("dropout", &Lora::dropout,
      {.effect = kRecipe,
       .min = 0,
       .max = 1,
       .below_max = true,
       .doc =
           "Share of an adapter's inputs dropped in training; those of embeddings drop none, and recurrent "
           "layers have no place for it."});
    v("target_modules", &Lora::target_modules,
      {.effect = kRecipe,
       .doc =
           "Linear, convolutional and recurrent layers and embeddings to adapt: patterns (* and ?) of names "
           "or of their last words, such as [\"c_attn\", \"h.3.mlp.*\"]. \"*\" alone leaves out "
           "embeddings, a head tied to one, and layers with a size that rank is not below. A pattern that "
           "matches none is an error that lists them."});
    v("adapter_path", &Lora::adapter_path,
      {.doc =
           "Start from the adapters in this folder, a run's adapter/ or one of Hugging Face's PEFT, of the "
           "same rank, alpha and layers; checkpoint.initial_load_path has the weights beside them."});
  }
  friend bool operator==(const Lora&, const Lora&) = default;
};

}  // namespace furrow::config
