#include "furrow/plan/unit_facts.h"

#include <algorithm>

#include "furrow/plan/topology.h"

namespace furrow::plan {
namespace {

void place_in_phases(const ModelSpec& spec, ModelFacts* facts) {
  facts->heads = heads_of(spec);
  facts->phases = phases_of(spec);
  facts->prediction = prediction_of(spec);
  const std::vector<UnitPhases> phases = unit_phases(spec);
  for (size_t u = 0; u < spec.units.size(); ++u) {
    facts->units[u].source = source_of(spec, static_cast<int32_t>(u));
    facts->units[u].forward_phase = phases[u].forward;
    facts->units[u].evaluated = phases[u].evaluated;
  }
  for (const int32_t u : chain_to(spec, facts->prediction)) facts->units[u].predicted = true;
}

// A borrowed parameter is read as the phase before has stepped it.
int32_t version_read(const ModelSpec& spec, const ModelFacts& facts, const TiedUse& tied) {
  const Parameter& parameter = spec.units[tied.user_unit].parameters[tied.user_parameter];
  return parameter.borrowed && facts.units[tied.owner_unit].steps ? 1 : 0;
}

// Backward goes from a head down to the last unit that trains, and no further.
void find_backward(const ModelSpec& spec, ModelFacts* facts) {
  std::vector<bool> trains(spec.units.size());  // the unit, or one that it reads
  for (size_t u = 0; u < spec.units.size(); ++u) {
    UnitFacts& unit = facts->units[u];
    unit.passes = unit.source >= 0 && !spec.units[u].detached && trains[unit.source];
    trains[u] = unit.trains() || unit.passes;
  }
  for (const Head& head : facts->heads) {
    int32_t u = trains[head.unit] ? head.unit : kFromBatch;
    for (; u >= 0; u = facts->units[u].passes ? facts->units[u].source : kFromBatch)
      facts->units[u].backward_phase = head.phase;
  }
}

}  // namespace

ModelFacts model_facts(const ModelSpec& spec) {
  ModelFacts facts;
  facts.flat = flat_layout(spec);
  facts.units.resize(spec.units.size());
  facts.scales_loss = spec.reduce == DType::kF16;
  for (size_t u = 0; u < spec.units.size(); ++u) {
    facts.units[u].owns = !facts.flat.units[u].spans.empty();
    facts.units[u].steps = facts.flat.units[u].trained_elements > 0;
    facts.units[u].has_statistics = !spec.units[u].statistics.empty();
    facts.units[u].folds = facts.units[u].has_statistics && !spec.units[u].inference;
    facts.has_statistics = facts.has_statistics || facts.units[u].has_statistics;
    facts.scales_loss = facts.scales_loss || spec.units[u].compute == DType::kF16;
  }
  place_in_phases(spec, &facts);
  for (const TiedUse& tied : facts.flat.tied) {
    facts.units[tied.user_unit].weights.push_back(
        params_value(tied.owner_unit, version_read(spec, facts, tied)));
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
  find_backward(spec, &facts);
  return facts;
}

std::vector<int32_t> ModelFacts::heads_in(int32_t phase) const {
  std::vector<int32_t> places;
  for (size_t h = 0; h < heads.size(); ++h) {
    if (heads[h].phase == phase) places.push_back(static_cast<int32_t>(h));
  }
  return places;
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

Value input_value(const UnitFacts& facts, int32_t microbatch) {
  return facts.source < 0 ? batch_value(microbatch) : act_value(facts.source, microbatch);
}

Value final_gradient(const UnitFacts& facts, int32_t unit, int32_t k, Part part) {
  return facts.uses_by_others.empty() ? gradient_value(unit, 0, 0, k, part) : total_value(unit, part);
}

}  // namespace furrow::plan
