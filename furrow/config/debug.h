// [debug]: randomness and reproducibility.
#pragma once

#include <cstdint>
#include <string>

#include "furrow/config/field.h"

namespace furrow::config {

struct Debug {
  int64_t seed = 0;
  std::string deterministic = "auto";

  template <class V>
  static void fields(V& v) {
    v("seed", &Debug::seed,
      {.effect = Effect::kRecipe,
       .min = 0,
       .doc = "Every random number is a function of it: parameters, order, dropout."});
    v("deterministic", &Debug::deterministic,
      {.choices = "off|auto|strict",
       .doc =
           "off: gradients are added rank by rank, on a GPU also within a layer in any order (attention is "
           "faster so); auto: in an order that no layout changes, where that costs no byte, else rank by "
           "rank, and the run header says which; strict: always in that order, and anything else that could "
           "change a bit, such as resuming with another recipe, is an error."});
  }
  friend bool operator==(const Debug&, const Debug&) = default;
};

}  // namespace furrow::config
