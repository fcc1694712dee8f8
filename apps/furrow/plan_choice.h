// A choice of the planner as a config, and a config's layout as a choice.
#pragma once

#include <optional>
#include <string>

#include "furrow/config/config.h"
#include "furrow/plan/search.h"

namespace furrow::app {

// [parallelism] and [activation_checkpoint] on the cluster of `costs`, as a run would take them; none where
// its degrees do not multiply to that, with the reason in `why`.
std::optional<plan::Choice> configured_choice(const config::Config& config, const plan::ModelSpec& spec,
                                              const plan::Costs& costs, std::string* why);

// The config with the layout of a choice, and as TOML that `furrow train` takes.
config::Config planned_config(const config::Config& config, const plan::ModelSpec& spec,
                              const plan::Choice& choice);
std::string planned_toml(const config::Config& config, const plan::ModelSpec& spec,
                         const plan::Choice& choice);

}  // namespace furrow::app
