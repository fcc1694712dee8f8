// The network of a config as it is trained: described, in its precision, with adapters and the optimizer's
// rules.
#pragma once

#include <span>

#include "furrow/config/config.h"
#include "furrow/models/architectures.h"

namespace furrow::models {

// Error{invalid_argument}: as describe(), apply_lora() and plan::apply_optimizer() say.
plan::ModelSpec trained_network(const config::Config& config, const DataShape& data,
                                std::span<const Architecture> extra = {});

}  // namespace furrow::models
