// [distillation]: a trained model that teaches the one in training.
#pragma once

#include <string>

#include "furrow/config/field.h"

namespace furrow::config {

struct Distillation {
  std::string teacher;
  double temperature = 2;
  double alpha = 0.5;

  template <class V>
  static void fields(V& v) {
    constexpr Effect kRecipe = Effect::kRecipe;
    constexpr std::string_view kOn = "training.objective=distillation";
    v("teacher", &Distillation::teacher,
      {.effect = kRecipe,
       .only_if = kOn,
       .doc = "The folder of an exported model, such as runs/NAME/model: frozen, over the same data and "
              "classes."});
    v("temperature", &Distillation::temperature,
      {.effect = kRecipe,
       .min = 0,
       .above_min = true,
       .only_if = kOn,
       .doc = "Both models' logits are divided by it before they are compared."});
    v("alpha", &Distillation::alpha,
      {.effect = kRecipe,
       .min = 0,
       .max = 1,
       .only_if = kOn,
       .doc = "The loss is alpha x temperature^2 x the divergence from the teacher + (1 - alpha) x the "
              "cross-entropy with the targets."});
  }
  friend bool operator==(const Distillation&, const Distillation&) = default;
};

}  // namespace furrow::config
