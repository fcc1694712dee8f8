#include "furrow/plan/optimizer_spec.h"

#include "furrow/base/error.h"
#include "furrow/base/names.h"

namespace furrow::plan {
namespace {

constexpr OptimizerSpec kSpecs[] = {
    {"adam", {"exp_avg", "exp_avg_sq"}},
    {"adamw", {"exp_avg", "exp_avg_sq"}},
    {"lion", {"exp_avg", ""}},
    {"sgd", {"momentum_buffer", ""}, /*stateless_without_momentum=*/true},
};

}  // namespace

std::span<const OptimizerSpec> optimizer_specs() { return kSpecs; }

const OptimizerSpec& find_optimizer_spec(std::string_view name) {
  std::vector<std::string> known;
  for (const OptimizerSpec& spec : kSpecs) {
    if (spec.name == name) return spec;
    known.emplace_back(spec.name);
  }
  throw Error(ErrorCode::kInvalidArgument, unknown_name_message("optimizer", name, known));
}

std::vector<std::string> optimizer_states(const config::Optimizer& optimizer,
                                          const config::LrScheduler& schedule) {
  const OptimizerSpec& spec = find_optimizer_spec(optimizer.name);
  std::vector<std::string> names;
  const bool moves = optimizer.momentum != 0 || schedule.decay_type == "one_cycle";
  if (spec.stateless_without_momentum && !moves) return names;
  for (const std::string_view state : spec.states) {
    if (!state.empty()) names.emplace_back(state);
  }
  return names;
}

}  // namespace furrow::plan
