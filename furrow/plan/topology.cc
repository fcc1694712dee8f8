#include "furrow/plan/topology.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string>

#include "furrow/base/error.h"

namespace furrow::plan {
namespace {

[[noreturn]] void fail(const std::string& message) { throw Error(ErrorCode::kInvalidArgument, message); }

void check_head(const ModelSpec& spec, const Head& head) {
  const auto units = static_cast<int32_t>(spec.units.size());
  if (head.unit < 0 || head.unit >= units || head.teacher < -1 || head.teacher >= units)
    fail(fmt::format("a head of model {} is of unit {}, with teacher {}: there are {} units",
                     spec.architecture, head.unit, head.teacher, units));
  if (head.phase < 0 || head.phase >= phases_of(spec))
    fail(fmt::format("a head of unit {} belongs to phase {} of {}", spec.units[head.unit].name, head.phase,
                     phases_of(spec)));
}

// Gradients of one output are never added: at most one head or reader gives one.
void check_gradients_once(const ModelSpec& spec) {
  std::vector<int> givers(spec.units.size(), 0);
  for (const Head& head : heads_of(spec)) ++givers[head.unit];
  for (size_t u = 0; u < spec.units.size(); ++u) {
    const int32_t source = source_of(spec, static_cast<int32_t>(u));
    if (source >= 0 && !spec.units[u].detached) ++givers[source];
  }
  for (size_t u = 0; u < spec.units.size(); ++u) {
    if (givers[u] > 1)
      fail(fmt::format("the output of unit {} gets {} gradients: detach all readers but one",
                       spec.units[u].name, givers[u]));
  }
}

void check_ties(const ModelSpec& spec, const std::vector<UnitPhases>& phases) {
  std::map<std::string, int32_t> owners;  // of parameters: the phase that steps them
  for (size_t u = 0; u < spec.units.size(); ++u) {
    for (const Parameter& parameter : spec.units[u].parameters) {
      if (!parameter.tied()) {
        owners[parameter.name] = phases[u].backward;
        continue;
      }
      const int32_t stepped = owners.at(parameter.tied_to);
      if (parameter.borrowed ? phases[u].forward > stepped : phases[u].backward == stepped) continue;
      fail(fmt::format("parameter {} of unit {} is tied to {}, which another phase steps: borrow it, later",
                       parameter.name, spec.units[u].name, parameter.tied_to));
    }
  }
}

}  // namespace

int32_t source_of(const ModelSpec& spec, int32_t unit) {
  const int32_t source = spec.units[unit].source;
  return source == kUnitBefore ? unit - 1 : source;
}

std::vector<Head> heads_of(const ModelSpec& spec) {
  if (!spec.heads.empty()) return spec.heads;
  return {Head{static_cast<int32_t>(spec.units.size()) - 1, 0, -1, {}}};
}

int32_t phases_of(const ModelSpec& spec) {
  return std::max<int32_t>(1, static_cast<int32_t>(spec.phases.size()));
}

bool is_one_chain(const ModelSpec& spec) {
  const std::vector<Head> heads = heads_of(spec);
  const auto units = static_cast<int32_t>(spec.units.size());
  bool row = heads.size() == 1 && heads[0].unit == units - 1 && heads[0].teacher < 0 && phases_of(spec) == 1;
  for (int32_t u = 0; row && u < units; ++u) row = source_of(spec, u) == u - 1 && !spec.units[u].detached;
  return row;
}

std::vector<int32_t> chain_to(const ModelSpec& spec, int32_t unit) {
  std::vector<int32_t> chain;
  for (int32_t u = unit; u >= 0; u = source_of(spec, u)) chain.push_back(u);
  std::reverse(chain.begin(), chain.end());
  return chain;
}

int32_t generator_of(const ModelSpec& spec) {
  for (int32_t u = 0; u < static_cast<int32_t>(spec.units.size()); ++u) {
    if (spec.units[u].detached) return source_of(spec, u);
  }
  return -1;
}

int32_t prediction_of(const ModelSpec& spec) {
  const int32_t generator = generator_of(spec);
  return generator >= 0 ? generator : heads_of(spec).front().unit;
}

std::vector<UnitPhases> unit_phases(const ModelSpec& spec) {
  std::vector<UnitPhases> phases(spec.units.size());
  const auto need = [&](int32_t from, int32_t phase, bool evaluated) {
    for (int32_t u = from; u >= 0; u = source_of(spec, u)) {
      if (phases[u].forward < 0 || phase < phases[u].forward) phases[u].forward = phase;
      phases[u].evaluated = phases[u].evaluated || evaluated;
    }
  };
  for (const Head& head : heads_of(spec)) {
    need(head.unit, head.phase, head.phase == 0);
    need(head.teacher, head.phase, false);
    for (int32_t u = head.unit; u >= 0; u = spec.units[u].detached ? kFromBatch : source_of(spec, u))
      phases[u].backward = head.phase;
  }
  return phases;
}

void validate_topology(const ModelSpec& spec) {
  const std::vector<Head> heads = heads_of(spec);
  for (const Head& head : heads) check_head(spec, head);
  for (int32_t p = 0; p < phases_of(spec); ++p) {
    if (std::none_of(heads.begin(), heads.end(), [&](const Head& head) { return head.phase == p; }))
      fail(fmt::format("phase {} of model {} has no head", p, spec.architecture));
  }
  check_gradients_once(spec);
  const std::vector<UnitPhases> phases = unit_phases(spec);
  for (size_t u = 0; u < spec.units.size(); ++u) {
    const Unit& unit = spec.units[u];
    if (phases[u].forward < 0) fail(fmt::format("unit {}: no head needs it", unit.name));
    if (phases_of(spec) > 1 && !unit.statistics.empty() && !unit.inference)
      fail(fmt::format("unit {} has statistics, which a step of several phases would fold twice", unit.name));
  }
  check_ties(spec, phases);
}

}  // namespace furrow::plan
