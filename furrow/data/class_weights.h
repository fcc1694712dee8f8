// What the classes of a training split count in a loss, so that each counts alike.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/base/clock.h"
#include "furrow/data/source.h"

namespace furrow::data {

// How many samples each class has, by a pass over the targets.  Error{invalid_argument}: the target is no
// class, such as a number or tokens; Error{cancelled}.
std::vector<int64_t> class_counts(const Source& source, const CancelToken* cancel = nullptr);

// samples / (classes x samples of the class), as scikit-learn's "balanced".  Error{invalid_argument} names
// the first class without a sample, by `names` where there are any.
std::vector<float> balanced_weights(std::span<const int64_t> counts, std::span<const std::string> names);

// Weights as text that reads back bit for bit, for a fitted state, and back.  Error{data_loss}.
std::string weights_text(std::span<const float> weights);
std::vector<float> parse_weights(std::string_view text);

}  // namespace furrow::data
