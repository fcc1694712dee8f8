// Parameters as training starts with them.  Torch-free.
#pragma once

#include <cstdint>
#include <span>

#include "furrow/plan/model_spec.h"

namespace furrow::nn {

// Fills `out`, the whole parameter, by parameter.init: element i from word i of Philox(seed, kInit, full
// name), whatever unit or rank holds it.  REQUIRES: out has parameter.size() elements.
void initialise(const plan::Parameter& parameter, uint64_t seed, std::span<float> out);

// The same bits for the flat elements [begin, begin + out.size()) of the parameter alone.
void initialise_range(const plan::Parameter& parameter, uint64_t seed, int64_t begin, std::span<float> out);

}  // namespace furrow::nn
