// A choice of the planner as a config, and a config's layout as a choice.
#pragma once

#include <optional>
#include <string>

#include "furrow/config/config.h"
#include "furrow/plan/search.h"

namespace furrow::app {

// Everything but costs and options: what the config says of batches, optimizer, ranks.  `spec` must outlive
// it.
plan::SearchRequest request_of(const config::Config& config, const plan::ModelSpec& spec);

// [parallelism] and [activation_checkpoint] for `world` ranks; none where its degrees do not multiply to
// that, with the reason in `why`.
std::optional<plan::Choice> configured_choice(const config::Config& config, const plan::ModelSpec& spec,
                                              int world, std::string* why);

// The config with the layout of a choice, and as TOML that `furrow train` takes.
config::Config planned_config(const config::Config& config, const plan::ModelSpec& spec,
                              const plan::Choice& choice);
std::string planned_toml(const config::Config& config, const plan::ModelSpec& spec,
                         const plan::Choice& choice);

}  // namespace furrow::app
