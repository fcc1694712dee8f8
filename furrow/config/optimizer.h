// [optimizer]: the update rule.  Norms and biases do not decay.
#pragma once

#include <string>
#include <vector>

#include "furrow/config/field.h"

namespace furrow::config {

struct Optimizer {
  std::string name = "adamw";
  double lr = 8e-4;
  double momentum = 0;
  bool nesterov = false;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;
  std::vector<std::string> groups;

  template <class V>
  static void fields(V& v) {
    constexpr Effect kRecipe = Effect::kRecipe;
    v("name", &Optimizer::name,
      {.effect = kRecipe, .choices = "sgd|adam|adamw|lion|lamb", .doc = "The update rule."});
    v("lr", &Optimizer::lr,
      {.effect = kRecipe,
       .min = 0,
       .above_min = true,
       .doc = "Learning rate; the highest one where a schedule moves it."});
    v("momentum", &Optimizer::momentum,
      {.effect = kRecipe,
       .min = 0,
       .max = 1,
       .below_max = true,
       .only_if = "optimizer.name=sgd",
       .doc = "Of SGD."});
    v("nesterov", &Optimizer::nesterov,
      {.effect = kRecipe, .only_if = "optimizer.name=sgd", .doc = "Nesterov's form of momentum."});
    v("beta1", &Optimizer::beta1,
      {.effect = kRecipe,
       .min = 0,
       .max = 1,
       .below_max = true,
       .only_if = "optimizer.name=adam|adamw|lion|lamb",
       .doc = "Decay of the first moment; lion: its share of the direction."});
    v("beta2", &Optimizer::beta2,
      {.effect = kRecipe,
       .min = 0,
       .max = 1,
       .below_max = true,
       .only_if = "optimizer.name=adam|adamw|lion|lamb",
       .doc = "Decay of the second moment; lion: of the first."});
    v("eps", &Optimizer::eps,
      {.effect = kRecipe,
       .min = 0,
       .only_if = "optimizer.name=adam|adamw|lamb",
       .doc = "Added to the root of the second moment."});
    v("weight_decay", &Optimizer::weight_decay,
      {.effect = kRecipe,
       .min = 0,
       .doc =
           "adamw, lion: decoupled decay, times the learning rate; sgd, adam: added to the gradient; lamb: "
           "added to the direction. Norms and biases are exempt."});
    v("groups", &Optimizer::groups,
      {.effect = kRecipe,
       .doc =
           "Parameters with rules of their own, each entry \"PATTERN key=value ...\": PATTERN matches names "
           "as * and ? do in a shell; keys are lr (in place of optimizer.lr, under the same schedule), "
           "weight_decay (norms and biases too) and frozen=true (no gradient, no state, no update). Of "
           "several entries that match, the later ones win, key by key."});
  }
  friend bool operator==(const Optimizer&, const Optimizer&) = default;
};

}  // namespace furrow::config
