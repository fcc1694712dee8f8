#include "furrow/plan/unit_facts.h"

#include <algorithm>

namespace furrow::plan {

ModelFacts model_facts(const ModelSpec& spec) {
  ModelFacts facts;
  facts.flat = flat_layout(spec);
  facts.units.resize(spec.units.size());
  for (size_t u = 0; u < spec.units.size(); ++u) {
    facts.units[u].owns = !facts.flat.units[u].spans.empty();
    facts.units[u].steps = facts.flat.units[u].trained_elements > 0;
    facts.units[u].has_statistics = !spec.units[u].statistics.empty();
    facts.has_statistics = facts.has_statistics || facts.units[u].has_statistics;
    facts.scales_loss = facts.scales_loss || spec.units[u].compute == DType::kF16;
  }
  for (const TiedUse& tied : facts.flat.tied) {
    facts.units[tied.user_unit].weights.push_back(params_value(tied.owner_unit, 0));
    if (tied.use == 0) continue;
    facts.units[tied.owner_unit].uses_by_others.push_back(tied);
    facts.units[tied.user_unit].ties.push_back(tied);
  }
  facts.first_trained = static_cast<int32_t>(spec.units.size());
  for (int32_t u = static_cast<int32_t>(spec.units.size()) - 1; u >= 0; --u) {
    UnitFacts& unit = facts.units[u];
    if (unit.trains()) facts.first_trained = u;
    std::sort(unit.weights.begin(), unit.weights.end());
    unit.weights.erase(std::unique(unit.weights.begin(), unit.weights.end()), unit.weights.end());
    if (unit.owns) unit.weights.insert(unit.weights.begin(), params_value(u, 0));
  }
  return facts;
}

bool keeps_params(const ModelFacts& facts, const Placement& placement, int32_t unit) {
  if (!facts.units[unit].owns) return false;
  const std::vector<TiedUse>& tied = facts.flat.tied;
  return placement.holds(unit) || std::any_of(tied.begin(), tied.end(), [&](const TiedUse& use) {
           return use.owner_unit == unit && placement.holds(use.user_unit);
         });
}

std::vector<int> foreign_users(const ModelFacts& facts, const Placement& placement, int32_t unit) {
  if (!facts.units[unit].steps) return {};
  std::vector<int> ranks;
  for (const TiedUse& tied : facts.flat.tied) {
    if (tied.owner_unit != unit) continue;
    const int rank = placement.pipeline_rank_of(tied.user_unit);
    if (rank != placement.pipeline_rank_of(unit)) ranks.push_back(rank);
  }
  std::sort(ranks.begin(), ranks.end());
  ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
  return ranks;
}

Value input_value(int32_t unit, int32_t microbatch) {
  return unit == 0 ? batch_value(microbatch) : act_value(unit - 1, microbatch);
}

Value final_gradient(const UnitFacts& facts, int32_t unit, int32_t k, Part part) {
  return facts.uses_by_others.empty() ? gradient_value(unit, 0, 0, k, part) : total_value(unit, part);
}

}  // namespace furrow::plan
