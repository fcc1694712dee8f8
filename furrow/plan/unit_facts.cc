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

Value input_value(int32_t unit, int32_t microbatch) {
  return unit == 0 ? batch_value(microbatch) : act_value(unit - 1, microbatch);
}

Value final_gradient(const UnitFacts& facts, int32_t unit, int32_t k, Part part) {
  return facts.uses_by_others.empty() ? gradient_value(unit, 0, 0, k, part) : total_value(unit, part);
}

}  // namespace furrow::plan
