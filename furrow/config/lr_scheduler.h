// [lr_scheduler]: the learning rate of a step, a pure function of its number.
#pragma once

#include <cstdint>
#include <string>

#include "furrow/config/field.h"

namespace furrow::config {

struct LrScheduler {
  int64_t warmup_steps = 0;
  int64_t total_steps = -1;
  double decay_ratio = -1;
  int64_t step_size = 1000;
  double gamma = 0.1;
  std::string decay_type = "constant";
  double min_lr_factor = 0;
  double pct_start = 0.3;
  double div_factor = 25;
  double final_div_factor = 1e4;
  bool cycle_momentum = true;
  double base_momentum = 0.85;
  double max_momentum = 0.95;

  template <class V>
  static void fields(V& v) {
    curves(v);
    cycles(v);
  }
  friend bool operator==(const LrScheduler&, const LrScheduler&) = default;

 private:
  template <class V>
  static void curves(V& v) {
    constexpr Effect kRecipe = Effect::kRecipe;
    constexpr std::string_view kWarm = "lr_scheduler.decay_type=constant|linear|sqrt|cosine|step";
    constexpr std::string_view kDecay = "lr_scheduler.decay_type=linear|sqrt|cosine";
    v("decay_type", &LrScheduler::decay_type,
      {.effect = kRecipe,
       .choices = "constant|linear|sqrt|cosine|step|one_cycle",
       .doc = "Curve after warm-up; step falls by gamma every step_size steps; one_cycle is PyTorch's "
              "OneCycleLR with cosine annealing."});
    v("warmup_steps", &LrScheduler::warmup_steps,
      {.effect = kRecipe, .min = 0, .only_if = kWarm, .doc = "Steps of linear warm-up."});
    v("total_steps", &LrScheduler::total_steps,
      {.effect = kRecipe, .min = -1, .doc = "Length of the schedule. -1: the steps of the run."});
    v("decay_ratio", &LrScheduler::decay_ratio,
      {.effect = kRecipe,
       .min = -1,
       .max = 1,
       .only_if = kDecay,
       .doc = "Share of the steps, at the end, over which the rate decays. Negative: all after warm-up."});
    v("step_size", &LrScheduler::step_size,
      {.effect = kRecipe,
       .min = 1,
       .only_if = "lr_scheduler.decay_type=step",
       .doc = "Steps, after warm-up, between two falls of the rate."});
    v("gamma", &LrScheduler::gamma,
      {.effect = kRecipe,
       .min = 0,
       .max = 1,
       .above_min = true,
       .only_if = "lr_scheduler.decay_type=step",
       .doc = "What the rate is multiplied with at each fall."});
    v("min_lr_factor", &LrScheduler::min_lr_factor,
      {.effect = kRecipe, .min = 0, .max = 1, .only_if = kDecay, .doc = "The last rate as a share of lr."});
  }

  template <class V>
  static void cycles(V& v) {
    constexpr Effect kRecipe = Effect::kRecipe;
    constexpr std::string_view kCycle = "lr_scheduler.decay_type=one_cycle";
    v("pct_start", &LrScheduler::pct_start,
      {.effect = kRecipe,
       .min = 0,
       .max = 1,
       .only_if = kCycle,
       .doc = "Share of the steps in which the rate rises."});
    v("div_factor", &LrScheduler::div_factor,
      {.effect = kRecipe,
       .min = 0,
       .above_min = true,
       .only_if = kCycle,
       .doc = "The first rate is lr / div_factor."});
    v("final_div_factor", &LrScheduler::final_div_factor,
      {.effect = kRecipe,
       .min = 0,
       .above_min = true,
       .only_if = kCycle,
       .doc = "The last rate is the first one / final_div_factor."});
    v("cycle_momentum", &LrScheduler::cycle_momentum,
      {.effect = kRecipe,
       .only_if = kCycle,
       .doc = "Move momentum (adam, adamw, lion: beta1) against the rate."});
    v("base_momentum", &LrScheduler::base_momentum,
      {.effect = kRecipe,
       .min = 0,
       .max = 1,
       .below_max = true,
       .only_if = kCycle,
       .doc = "Momentum where the rate is highest, with cycle_momentum."});
    v("max_momentum", &LrScheduler::max_momentum,
      {.effect = kRecipe,
       .min = 0,
       .max = 1,
       .below_max = true,
       .only_if = kCycle,
       .doc = "Momentum at both ends, with cycle_momentum."});
  }
};

}  // namespace furrow::config
