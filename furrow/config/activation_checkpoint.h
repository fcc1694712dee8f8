// [activation_checkpoint]: computing activations again instead of keeping them.
#pragma once

#include <string>
#include <vector>

#include "furrow/config/field.h"

namespace furrow::config {

struct ActivationCheckpoint {
  std::string mode = "none";
  std::vector<std::string> units;

  template <class V>
  static void fields(V& v) {
    v("mode", &ActivationCheckpoint::mode,
      {.effect = Effect::kLayout,
       .choices = "none|full|selective",
       .doc = "Which units run their forward again before their backward. Changes memory and time, no bit of "
              "the result."});
    v("units", &ActivationCheckpoint::units,
      {.effect = Effect::kLayout,
       .only_if = "activation_checkpoint.mode=selective",
       .doc =
           "Patterns of unit names (* and ?), such as [\"block*\"]; `furrow plan` lists the units. Empty: "
           "every second of the units of a kind, as in every second layer; where no kind comes twice, every "
           "second unit."});
  }
  friend bool operator==(const ActivationCheckpoint&, const ActivationCheckpoint&) = default;
};

}  // namespace furrow::config
