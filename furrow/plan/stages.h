// Which units a stage of the pipeline has: the units of a model cut into contiguous runs, none of them empty.
#pragma once

#include <cstdint>
#include <string>
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

// Stages of so many layers, torchtitan's way.  Layers are the units between the first and the last one, which
// weigh as many layers as the stages that have them have fewer.
struct LayerSplit {
  int64_t per_stage = 0;
  int64_t first_less = 1, last_less = 1;
};

// Units by stage: as many stages as hold the layers and both ends at `per_stage` each, the weight spread
// evenly, what is left over to the earlier stages.  REQUIRES: per_stage >= 1.  Error{invalid_argument}: an
// end that weighs more than its stage holds, a stage without a unit.
std::vector<int64_t> units_by_layers(const ModelSpec& spec, const LayerSplit& split);

// Units by stage, of the names of each stage's modules with spaces between them: units, or modules of their
// parameters ("h.0", "ln_f").  Error{invalid_argument}: an unknown name, a module of several units, a unit
// that is in no stage or in two, one out of order, a stage without any.
std::vector<int64_t> units_by_modules(const ModelSpec& spec, const std::vector<std::string>& stages);

}  // namespace furrow::plan
