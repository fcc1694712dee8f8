// The records of a run besides its folder: one row of sinks.cc each.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "furrow/config/config.h"
#include "furrow/observe/sink.h"

namespace furrow::app {

// Those that the config enables, for a run in `run_folder`.
std::vector<std::unique_ptr<observe::Sink>> make_sinks(const config::Config& config,
                                                       const std::string& run_folder);

}  // namespace furrow::app
