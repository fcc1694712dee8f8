// [validation]: measuring on held-back training data, early stopping, the best model.
#pragma once

#include <cstdint>
#include <string>

#include "furrow/config/field.h"

namespace furrow::config {

struct Validation {
  bool enable = true;
  int64_t freq = 500;
  std::string metric = "loss";
  int64_t patience = 0;
  double min_delta = 0;

  template <class V>
  static void fields(V& v) {
    constexpr std::string_view kOn = "validation.enable=true";
    v("enable", &Validation::enable,
      {.doc = "Evaluate the validation split during training and keep the best model."});
    v("freq", &Validation::freq,
      {.min = 0,
       .only_if = kOn,
       .doc = "Steps between evaluations; the last step is always one. 0: that one only."});
    v("metric", &Validation::metric,
      {.choices = "loss|accuracy",
       .only_if = kOn,
       .doc = "What decides on the best model and on stopping early."});
    v("patience", &Validation::patience,
      {.min = 0,
       .only_if = kOn,
       .doc = "Stop after this many evaluations in a row without a better one. 0: never."});
    v("min_delta", &Validation::min_delta,
      {.min = 0, .only_if = kOn, .doc = "How much better counts as better."});
  }
  friend bool operator==(const Validation&, const Validation&) = default;
};

}  // namespace furrow::config
