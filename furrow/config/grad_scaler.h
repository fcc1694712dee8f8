// [grad_scaler]: the loss scale of float16.  Names and defaults of torch.amp.GradScaler.
#pragma once

#include <cstdint>

#include "furrow/config/field.h"

namespace furrow::config {

struct GradScaler {
  double init_scale = 65536;
  double growth_factor = 2;
  double backoff_factor = 0.5;
  int64_t growth_interval = 2000;

  template <class V>
  static void fields(V& v) {
    constexpr Effect kRecipe = Effect::kRecipe;
    constexpr std::string_view kOnlyIf =
        "training.mixed_precision_param=float16 or training.mixed_precision_reduce=float16 or "
        "training.mixed_precision_units~float16";
    v("init_scale", &GradScaler::init_scale,
      {.effect = kRecipe,
       .min = 0,
       .above_min = true,
       .only_if = kOnlyIf,
       .doc = "What the mean of the losses is multiplied with at first."});
    v("growth_factor", &GradScaler::growth_factor,
      {.effect = kRecipe,
       .min = 1,
       .only_if = kOnlyIf,
       .doc = "Multiplies it after growth_interval steps in a row with finite gradients."});
    v("backoff_factor", &GradScaler::backoff_factor,
      {.effect = kRecipe,
       .min = 0,
       .max = 1,
       .above_min = true,
       .below_max = true,
       .only_if = kOnlyIf,
       .doc = "Multiplies it after a step whose gradients are not finite, which is skipped."});
    v("growth_interval", &GradScaler::growth_interval,
      {.effect = kRecipe, .min = 1, .only_if = kOnlyIf, .doc = "Finite steps in a row before it grows."});
  }
  friend bool operator==(const GradScaler&, const GradScaler&) = default;
};

}  // namespace furrow::config
