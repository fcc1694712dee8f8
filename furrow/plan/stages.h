// Which units a stage of the pipeline has: the units of a model cut into contiguous runs, none of them empty.
#pragma once

#include <cstdint>
#include <vector>

#include "furrow/plan/model_spec.h"
#include "furrow/plan/share.h"

namespace furrow::plan {

// Forward and backward of a unit, a sample.
double unit_cost(const Unit& unit);

// The largest cost of a stage is as small as it can be; among such cuts the sum of squares is the smallest;
// among those, earlier stages are the shorter ones.  Error{invalid_argument}: fewer units than stages.
std::vector<Range> stages_by_cost(const ModelSpec& spec, int32_t stages);

// `units[s]` units for stage s.  Error{invalid_argument}, with the sum: another number of stages or units.
std::vector<Range> stages_by_hand(const ModelSpec& spec, int32_t stages, const std::vector<int64_t>& units);

}  // namespace furrow::plan
