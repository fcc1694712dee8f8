// What one rank does alone, for the scaling efficiency of several.
#pragma once

#include <string>

#include "furrow/config/config.h"
#include "furrow/train/session.h"

namespace furrow::app {

// samples_per_second of the newest runs of one rank beside `run_folder` that compare with `config` on `ranks`
// ranks: the same recipe, recompute, device, processor and threads of a rank (this process being one), and a
// global batch that is the same, or this one's over `ranks`.  Threads and batch are compared as they are in
// effect, not as configs put them.  Damaged neighbours are passed over.
train::OneRankRates one_rank_rates(const config::Config& config, const std::string& run_folder, int ranks);

}  // namespace furrow::app
