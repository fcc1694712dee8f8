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
  double beta2_decay = -0.8;
  double weight_decay = 0.1;
  std::vector<std::string> groups;

  template <class V>
  static void fields(V& v) {
    rules(v);
    averages(v);
  }
  friend bool operator==(const Optimizer&, const Optimizer&) = default;

 private:
  template <class V>
  static void rules(V& v) {
    constexpr Effect kRecipe = Effect::kRecipe;
    constexpr std::string_view kMoves = "optimizer.name=sgd|muon or optimizer.groups~name=sgd|name=muon";
    v("name", &Optimizer::name,
      {.effect = kRecipe,
       .choices = "sgd|adam|adamw|adamw8bit|adafactor|lion|lamb|muon",
       .doc =
           "The update rule. adamw8bit keeps its moments in a byte each; adafactor the second one as sums of "
           "rows "
           "and columns, with lr as the most that it moves a parameter, as a share of its size; lamb sizes "
           "steps by the norm of each parameter; muon makes steps of hidden matrices orthogonal, at the size "
           "of "
           "adamw's, and steps the rest with adamw, or as groups say."});
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
       .only_if = kMoves,
       .doc = "Of SGD, and of the matrices of Muon, where 0.95 is usual."});
    v("nesterov", &Optimizer::nesterov,
      {.effect = kRecipe, .only_if = kMoves, .doc = "Nesterov's form of momentum."});
  }

  template <class V>
  static void averages(V& v) {
    constexpr Effect kRecipe = Effect::kRecipe;
    constexpr std::string_view kDecays =
        "optimizer.name=adam|adamw|adamw8bit|lion|lamb|muon or "
        "optimizer.groups~name=adam|name=lion|name=lamb|name=muon";
    v("beta1", &Optimizer::beta1,
      {.effect = kRecipe,
       .min = 0,
       .max = 1,
       .below_max = true,
       .only_if = kDecays,
       .doc = "Decay of the first moment; lion: its share of the direction; muon: of what is no hidden "
              "matrix."});
    v("beta2", &Optimizer::beta2,
      {.effect = kRecipe,
       .min = 0,
       .max = 1,
       .below_max = true,
       .only_if = kDecays,
       .doc = "Decay of the second moment; lion: of the first; muon: of what is no hidden matrix."});
    v("eps", &Optimizer::eps,
      {.effect = kRecipe,
       .min = 0,
       .only_if =
           "optimizer.name=adam|adamw|adamw8bit|lamb|muon or optimizer.groups~name=adam|name=lamb|name=muon",
       .doc = "Added to the root of the second moment."});
    v("beta2_decay", &Optimizer::beta2_decay,
      {.effect = kRecipe,
       .min = -1,
       .max = 0,
       .below_max = true,
       .only_if = "optimizer.name=adafactor or optimizer.groups~name=adafactor",
       .doc = "The second moment of step t takes t^beta2_decay of the new squares."});
    v("weight_decay", &Optimizer::weight_decay,
      {.effect = kRecipe,
       .min = 0,
       .doc = "adamw, adamw8bit, adafactor, lion, muon: decoupled decay, times the learning rate; sgd, adam: "
              "added "
              "to the gradient; lamb: "
              "added to the direction. Norms and biases are exempt."});
    v("groups", &Optimizer::groups,
      {.effect = kRecipe,
       .doc =
           "Parameters with rules of their own, each entry \"PATTERN key=value ...\": PATTERN matches names "
           "as * and ? do in a shell; keys are name (the optimizer that steps them, in place of "
           "optimizer.name), "
           "lr (in place of optimizer.lr, under the same schedule), "
           "weight_decay (norms and biases too), beta1, beta2, eps and momentum (of an optimizer that has "
           "them; no "
           "schedule moves beta1 or momentum then) and frozen=true (no gradient, no state, no update). What "
           "an "
           "entry leaves out is as in [optimizer]. Of "
           "several entries that match, the later ones win, key by key."});
  }
};

}  // namespace furrow::config
