#include "furrow/models/lora_ties.h"

#include <algorithm>

namespace furrow::models {
namespace {

// What the weight's adapter is, whichever of the units that run its layer it stands in; "" where it has none.
std::string adapter_name(const plan::ModelSpec& spec, const std::string& weight) {
  for (const plan::Unit& unit : spec.units) {
    for (const plan::Adapter& adapter : unit.adapters) {
      if (unit.parameters[static_cast<size_t>(adapter.weight)].name != weight) continue;
      const plan::Parameter& a = unit.parameters[static_cast<size_t>(adapter.a)];
      return a.tied() ? a.tied_to : a.name;
    }
  }
  return "";
}

}  // namespace

const plan::Unit* original_of(const plan::ModelSpec& spec, const plan::Unit& unit) {
  if (unit.parameters.empty() || !unit.parameters.front().tied()) return nullptr;
  const auto owns = [&](const plan::Unit& each) {
    return !each.parameters.empty() && each.parameters.front().name == unit.parameters.front().tied_to;
  };
  const auto original = std::ranges::find_if(spec.units, owns);
  if (original == spec.units.end() || original->kind != unit.kind) return nullptr;
  const auto weights = [](const plan::Unit& each) {
    return each.parameters.size() - 2 * each.adapters.size();
  };
  if (weights(*original) != weights(unit)) return nullptr;
  for (size_t i = 0; i < weights(unit); ++i) {
    if (unit.parameters[i].tied_to != original->parameters[i].name) return nullptr;
  }
  return &*original;
}

bool in_a_tie(const plan::ModelSpec& spec, const plan::Parameter& parameter) {
  if (parameter.tied()) return true;
  return std::ranges::any_of(spec.units, [&](const plan::Unit& unit) {
    const auto ties = [&](const plan::Parameter& other) { return other.tied_to == parameter.name; };
    return std::ranges::any_of(unit.parameters, ties) && original_of(spec, unit) == nullptr;
  });
}

std::set<std::string> parted(const plan::ModelSpec& spec) {
  std::set<std::string> parted;
  for (const plan::Unit& unit : spec.units) {
    for (const plan::Parameter& parameter : unit.parameters) {
      if (parameter.tied() && !parameter.adapter &&
          adapter_name(spec, parameter.name) != adapter_name(spec, parameter.tied_to))
        parted.insert(parameter.name);
    }
  }
  return parted;
}

}  // namespace furrow::models
