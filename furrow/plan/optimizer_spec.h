// Optimizers as data: which flat buffers of state each keeps.  tensor/optimizer.cc has exactly one loop for
// every row (a test of train holds them together).
#pragma once

#include <array>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/config/config.h"

namespace furrow::plan {

struct OptimizerSpec {
  std::string_view name;                   // "adamw"
  std::array<std::string_view, 2> states;  // "exp_avg", "exp_avg_sq"; "" where fewer
  bool stateless_without_momentum = false;
};

std::span<const OptimizerSpec> optimizer_specs();
const OptimizerSpec& find_optimizer_spec(std::string_view name);  // Error{invalid_argument}, lists the known

// Names of the states that a run of this config keeps, in the order of its flat buffers.  SGD keeps its
// buffer only where a momentum is set or the schedule moves it.
std::vector<std::string> optimizer_states(const config::Optimizer& optimizer,
                                          const config::LrScheduler& schedule);

}  // namespace furrow::plan
