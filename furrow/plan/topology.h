// Who reads whom in a model of several chains, and in which phase of a step each unit runs.
//
// A head's phase walks down from its unit: what it reads runs forward in the first phase that needs it, and
// has its backward in the phase whose gradient comes to it.  A chain is one head, one phase, every unit after
// the one before.
#pragma once

#include <cstdint>
#include <vector>

#include "furrow/plan/model_spec.h"

namespace furrow::plan {

int32_t source_of(const ModelSpec& spec, int32_t unit);  // the unit that it reads; kFromBatch
std::vector<Head> heads_of(const ModelSpec& spec);       // one at least
int32_t phases_of(const ModelSpec& spec);                // one at least
bool is_one_chain(const ModelSpec& spec);  // units in a row from the batch to the one head, in one phase

std::vector<int32_t> chain_to(const ModelSpec& spec, int32_t unit);  // from the batch to it, it included
// The unit whose outputs are judged beside those of the data; -1: nothing is generated.
int32_t generator_of(const ModelSpec& spec);
// The unit whose output the model gives for samples: the generator, else what the first head judges.
int32_t prediction_of(const ModelSpec& spec);

struct UnitPhases {
  int32_t forward = -1;    // the first phase that needs its output; -1: none does
  int32_t backward = -1;   // the phase whose gradient comes to its output, were everything trained; -1: none
  bool evaluated = false;  // a forward-only program, that of the heads of phase 0, needs it
};
std::vector<UnitPhases> unit_phases(const ModelSpec& spec);  // REQUIRES: a validated spec

// Error{invalid_argument}: a head or a phase that does not exist, an output that gets gradients twice, a unit
// that nothing needs, a parameter tied across phases without being borrowed, statistics where there are
// phases.  REQUIRES: sources and ties that are earlier ones.
void validate_topology(const ModelSpec& spec);

}  // namespace furrow::plan
