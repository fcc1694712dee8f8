// What the classes are called, in the order of their numbers: carried by every fitted state of labelled data.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/preprocess/preprocessor.h"

namespace furrow::preprocess {

inline constexpr const char* kClassNames = "class_names";  // the key of a State that is no table's
// What each class counts in the loss that the model was trained on, where that was fitted
// (data/class_weights.h).
inline constexpr const char* kClassWeights = "class_weights";

// Names as text, a line each, escaped; and back.  Error{data_loss}: an unknown escape.
std::string names_text(const std::vector<std::string>& names);
std::vector<std::string> parse_names(std::string_view text);

// Of a state: under kClassNames, of a table the labels of its target.  Empty where it has none: text,
// numbers, states of earlier versions.  Error{data_loss} as above.
std::vector<std::string> class_names(const State& state);

// Says which class is called otherwise: "class 1 is 'dog' there and 'wolf' here"; nothing when `here` are the
// first of `there`, or when one of them has no names.
std::optional<std::string> class_difference(const std::vector<std::string>& there,
                                            const std::vector<std::string>& here);

}  // namespace furrow::preprocess
