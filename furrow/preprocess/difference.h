// Whether what was fitted for one model reads data as another model's does.
#pragma once

#include <optional>
#include <string>

#include "furrow/preprocess/preprocessor.h"

namespace furrow::preprocess {

struct Difference {
  std::string key;            // of a State
  std::string first, second;  // its values, cut short; "nothing" where one has none
};

// The first of the keys that two states disagree on, "kind" before all others; none when they read the same
// data to (almost) the same input.  Numbers were fitted on samples, and differ a little between two splits of
// one set: those within 5 % of the larger one agree, or within 0.01, unless both are whole.  What the classes
// are called class_difference() compares.  Pure; thread safe.
std::optional<Difference> difference(const State& first, const State& second);

}  // namespace furrow::preprocess
