// How one configuration key is declared: beside the member it fills, once, for parsing, help and reference
// alike.
#pragma once

#include <limits>
#include <string_view>

namespace furrow::config {

// What a key changes.  kRecipe: the mathematics, so a checkpoint keeps it and a strict resume refuses another
// value. kLayout: where and in which order the same mathematics happens.  kOther: names, logs, files.
enum class Effect { kRecipe, kLayout, kOther };

struct FieldSpec {
  Effect effect = Effect::kOther;
  double min = -std::numeric_limits<double>::infinity();  // of a number, or of each element of a list
  double max = std::numeric_limits<double>::infinity();
  bool above_min = false;  // the number must be larger than min
  bool below_max = false;  // ... smaller than max
  bool nested = false;     // of a list of strings: an element may be a list, its words joined by spaces
  std::string_view choices = {};  // of a string: "sgd|adamw"
  std::string_view only_if = {};  // has an effect only then: "optimizer.name=sgd|adamw", "a.count>1", "a.b=c
                                  // or d.e=f", "a.list~part"
  std::string_view doc = {};      // one sentence or two
};

}  // namespace furrow::config
