// [ema]: an exponential moving average of the weights.
#pragma once

#include "furrow/config/field.h"

namespace furrow::config {

struct Ema {
  double decay = 0;
  bool warmup = false;

  template <class V>
  static void fields(V& v) {
    v("decay", &Ema::decay,
      {.effect = Effect::kRecipe,
       .min = 0,
       .max = 1,
       .below_max = true,
       .doc =
           "Above 0: keep an average of the weights, decay of the old and 1 - decay of the new after every "
           "step, from the first weights on, and of the statistics of batch norm. Validation, the best "
           "model, test and export use it. 0: none."});
    v("warmup", &Ema::warmup,
      {.effect = Effect::kRecipe,
       .doc = "Lower the decay to (1 + step) / (10 + step) where that is less, so that the first weights are "
              "soon forgotten."});
  }
  friend bool operator==(const Ema&, const Ema&) = default;
};

}  // namespace furrow::config
