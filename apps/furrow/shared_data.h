// The data of a run, opened on every rank of a world.
#pragma once

#include <optional>

#include "furrow/comm/communicator.h"
#include "furrow/config/config.h"
#include "furrow/data/dataset.h"

namespace furrow::app {

// With the values `kept` by the run on rank 0 (a resume), else with those that rank 0 fits now: the others
// wait for them, however long that takes, and fit nothing.  What is wrong with the data of rank 0 is
// everybody's error. `communicator` is null in a world of one.
// `opening`: how this rank opens them; its progress is that of rank 0 alone.
data::Dataset open_shared(comm::Communicator* communicator, const config::Config& config,
                          const std::optional<data::Preprocessing>& kept,
                          const data::WhileOpening& opening = {});

}  // namespace furrow::app
