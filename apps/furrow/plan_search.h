// `furrow plan --cluster`: the search, its tables, and how far more devices pay off.
#pragma once

#include "apps/furrow/command.h"
#include "furrow/config/config.h"

namespace furrow::app {

// Prints; the exit status.  Error{resource_exhausted}: nothing fits.
int run_plan_search(const config::Config& config, const Arguments& arguments);

}  // namespace furrow::app
