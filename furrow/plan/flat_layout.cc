#include "furrow/plan/flat_layout.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "furrow/base/error.h"

namespace furrow::plan {
namespace {

constexpr int64_t kAlign = 16;  // elements: 64 bytes of float32

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

void place_group(const Unit& unit, ParameterGroup group, UnitLayout* layout) {
  for (size_t i = 0; i < unit.parameters.size(); ++i) {
    const Parameter& parameter = unit.parameters[i];
    if (parameter.tied() || parameter.group != group) continue;
    layout->spans.push_back({static_cast<int>(i), layout->elements, parameter.size()});
    layout->elements = round_up(layout->elements + parameter.size(), kAlign);
  }
}

void place_statistics(const Unit& unit, UnitLayout* layout) {
  for (size_t i = 0; i < unit.statistics.size(); ++i) {
    const Statistic& statistic = unit.statistics[i];
    const int64_t size = statistic.size() * static_cast<int64_t>(dtype_size(statistic.dtype())) / 4;
    layout->statistics.push_back({static_cast<int>(i), layout->statistic_elements, size});
    layout->statistic_elements = round_up(layout->statistic_elements + size, kAlign);
  }
}

// Owner unit and span of a parameter, by full name.
using Places = std::map<std::string, std::pair<int, FlatSpan>>;

Places find_places(const ModelSpec& spec, const std::vector<UnitLayout>& layouts) {
  Places places;
  for (size_t u = 0; u < layouts.size(); ++u) {
    for (const FlatSpan& span : layouts[u].spans) {
      places[spec.units[u].parameters[span.parameter].name] = {static_cast<int>(u), span};
    }
  }
  return places;
}

}  // namespace

bool FlatLayout::has_masters() const {
  return std::any_of(units.begin(), units.end(), [](const UnitLayout& unit) { return unit.masters() > 0; });
}

UnitLayout unit_layout(const Unit& unit) {
  UnitLayout layout;
  layout.compute = unit.compute;
  place_group(unit, ParameterGroup::kDecay, &layout);
  layout.decay_elements = layout.elements;
  place_group(unit, ParameterGroup::kNoDecay, &layout);
  layout.elements = round_up(layout.elements, kGrid);
  place_statistics(unit, &layout);
  return layout;
}

FlatLayout flat_layout(const ModelSpec& spec) {
  FlatLayout flat;
  for (const Unit& unit : spec.units) flat.units.push_back(unit_layout(unit));
  const Places places = find_places(spec, flat.units);
  std::vector<int> uses(spec.units.size(), 0);
  for (size_t u = 0; u < spec.units.size(); ++u) {
    for (size_t i = 0; i < spec.units[u].parameters.size(); ++i) {
      const Parameter& parameter = spec.units[u].parameters[i];
      if (!parameter.tied()) continue;
      auto place = places.find(parameter.tied_to);
      FURROW_CHECK(place != places.end(), parameter.name + " is tied to nothing: validate() the spec first");
      const auto& [owner, span] = place->second;
      flat.tied.push_back(
          {owner, ++uses[owner], static_cast<int>(u), static_cast<int>(i), span.offset, span.size});
    }
  }
  return flat;
}

}  // namespace furrow::plan
