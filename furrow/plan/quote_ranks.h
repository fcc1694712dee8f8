// The part of a quote that is about ranks.  Internal to plan.
#pragma once

#include "furrow/plan/quote.h"

namespace furrow::plan {

// Fills placement, deterministic, collectives, data_parallel_bytes, memory, formula.  REQUIRES: a verified
// program.
void quote_ranks(const Program& program, const ModelSpec& spec, Quote* quote);

}  // namespace furrow::plan
