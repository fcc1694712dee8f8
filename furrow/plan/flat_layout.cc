#include "furrow/plan/flat_layout.h"

#include <algorithm>
#include <compare>
#include <map>
#include <string>
#include <utility>

#include "furrow/base/error.h"

namespace furrow::plan {
namespace {

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Parameters with the same key lie together, in the order of keys.
struct Key {
  bool frozen, cut, does_not_decay;
  size_t rule;  // in the order of their first parameter
  friend auto operator<=>(const Key&, const Key&) = default;
};

class Placer {
 public:
  Placer(const Unit& unit, int64_t alignment) : unit_(unit), alignment_(alignment) {}

  UnitLayout place() {
    std::map<Key, std::vector<int>> sorted;
    for (size_t i = 0; i < unit_.parameters.size(); ++i) {
      if (!unit_.parameters[i].tied()) sorted[key_of(unit_.parameters[i])].push_back(static_cast<int>(i));
    }
    for (const auto& [key, parameters] : sorted) place_group(key, parameters);
    if (!frozen_) end_trained();
    layout_.elements = round_up(layout_.elements, kGrid);
    return std::move(layout_);
  }

 private:
  Key key_of(const Parameter& parameter) {
    const auto rule = std::find(rules_.begin(), rules_.end(), parameter.rule);
    const auto index = static_cast<size_t>(rule - rules_.begin());
    if (rule == rules_.end()) rules_.push_back(parameter.rule);
    return {parameter.rule.frozen, !parameter.whole, parameter.group == ParameterGroup::kNoDecay, index};
  }

  void place_group(const Key& key, const std::vector<int>& parameters) {
    if (key.frozen && !frozen_) {
      end_trained();
      frozen_ = true;
    }
    if (!key.frozen && key.cut && !layout_.spans.empty() && layout_.spans.back().whole) end_whole();
    const int64_t begin = layout_.elements;
    for (const int i : parameters) place(i);
    if (!key.frozen) add_group({begin, layout_.elements, !key.does_not_decay, rules_[key.rule]});
  }

  void place(int i) {
    const Parameter& parameter = unit_.parameters[i];
    const int64_t size = parameter.size(), into_block = layout_.elements % kGrid;
    if (parameter.whole && into_block + size > kGrid) layout_.elements = round_up(layout_.elements, kGrid);
    const int64_t rows = parameter.shape.size() >= 2 ? parameter.shape[0] : 0;
    layout_.spans.push_back({i, layout_.elements, size, rows, parameter.whole});
    layout_.elements = round_up(layout_.elements + size, alignment_);
  }

  // Padding belongs to the group before it.
  void add_group(const FlatGroup& group) {
    if (!layout_.groups.empty()) layout_.groups.back().end = group.begin;
    layout_.groups.push_back(group);
  }

  void end_whole() {
    layout_.elements = round_up(layout_.elements, kGrid);
    layout_.whole_elements = layout_.elements;
  }

  void end_trained() {
    layout_.elements = round_up(layout_.elements, kGrid);
    layout_.trained_elements = layout_.elements;
    const bool whole = !layout_.spans.empty() && layout_.spans.back().whole;
    if (whole) layout_.whole_elements = layout_.elements;
    if (!layout_.groups.empty()) layout_.groups.back().end = layout_.elements;
  }

  const Unit& unit_;
  const int64_t alignment_;
  std::vector<ParameterRule> rules_;
  UnitLayout layout_;
  bool frozen_ = false;  // the trained ones have been placed
};

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

bool FlatLayout::offloads() const {
  return std::any_of(units.begin(), units.end(), [](const UnitLayout& unit) { return unit.offload; });
}

UnitLayout unit_layout(const Unit& unit, int64_t alignment) {
  UnitLayout layout = Placer(unit, alignment).place();
  layout.compute = unit.compute;
  layout.offload = unit.offload;
  place_statistics(unit, &layout);
  return layout;
}

FlatLayout flat_layout(const ModelSpec& spec) {
  FlatLayout flat;
  flat.reduce = spec.reduce;
  for (const Unit& unit : spec.units) {
    flat.units.push_back(unit_layout(unit, spec.alignment));
    flat.units.back().averages_statistics =
        spec.averages_statistics && !unit.statistics.empty() && !unit.inference;
  }
  const Places places = find_places(spec, flat.units);
  std::vector<int> uses(spec.units.size(), 0);
  for (size_t u = 0; u < spec.units.size(); ++u) {
    for (size_t i = 0; i < spec.units[u].parameters.size(); ++i) {
      const Parameter& parameter = spec.units[u].parameters[i];
      if (!parameter.tied()) continue;
      auto place = places.find(parameter.tied_to);
      FURROW_CHECK(place != places.end(), parameter.name + " is tied to nothing: validate() the spec first");
      const auto& [owner, span] = place->second;
      const bool frozen = spec.units[owner].parameters[span.parameter].rule.frozen;
      const bool idle = frozen || parameter.borrowed;
      flat.tied.push_back({owner, idle ? 0 : ++uses[owner], static_cast<int>(u), static_cast<int>(i),
                           span.offset, span.size});
    }
  }
  return flat;
}

}  // namespace furrow::plan
