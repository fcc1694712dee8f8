// The configuration of data that a command line names.
#pragma once

#include <string>
#include <vector>

#include "furrow/config/config.h"

namespace furrow::app {

// `what` is a config file, a run's folder, or a data set itself, whose kind is recognised unless the
// overrides name it.  Errors as config::load and data::guess_kind.
config::Config data_config(const std::string& what, const std::vector<std::string>& overrides);

}  // namespace furrow::app
