// Small models for plan's tests and benches.  plan knows no architectures, so they are written by hand.
#pragma once

#include <fmt/format.h>

#include <random>
#include <string>
#include <vector>

#include "furrow/plan/model_spec.h"

namespace furrow::plan::testing {

inline Parameter parameter(std::string name, Shape shape, std::string tied_to = "") {
  Parameter p;
  p.name = std::move(name);
  p.group = shape.size() >= 2 ? ParameterGroup::kDecay : ParameterGroup::kNoDecay;
  p.shape = std::move(shape);
  p.tied_to = std::move(tied_to);
  return p;
}

inline Statistic statistic(std::string name, Shape shape, Statistic::Fold fold = Statistic::Fold::kAverage) {
  Statistic s;
  s.name = std::move(name);
  s.shape = std::move(shape);
  s.fold = fold;
  return s;
}

// A unit of `width` -> `width`; weight and bias when `owns`.
inline Unit unit(int index, int64_t width, bool owns) {
  Unit u;
  u.name = fmt::format("u{}", index);
  u.kind = "test";
  u.input = u.output = {DType::kF32, {-1, width}};
  if (owns) {
    u.parameters.push_back(parameter(u.name + ".weight", {width, width}));
    u.parameters.push_back(parameter(u.name + ".bias", {width}));
  }
  u.flops = {2.0 * width * width, 3.0 * width * width, 4.0 * width * width};
  u.saved_bytes = 12;
  u.deferred_bytes = 20;
  return u;
}

inline ModelSpec chain(int units, int64_t width = 8) {
  ModelSpec spec;
  spec.architecture = "chain";
  for (int i = 0; i < units; ++i) spec.units.push_back(unit(i, width, true));
  return spec;
}

// A chain that a tensor axis can cut: rows of the weights, in two segments of 3 to 1; biases are replicated.
// Each unit gathers forward and sums backward; the last one's loss is summed over the axis too.
inline ModelSpec cut_chain(int units, int64_t width = 64) {
  using enum UnitCollective::Phase;
  using enum UnitCollective::Op;
  ModelSpec spec = chain(units, width);
  for (Unit& each : spec.units) {
    each.parameters[0].tensor_axis = 0;
    each.parameters[0].tensor_segments = {width / 4 * 3, width / 4};
    each.tensor = {true, {{"lanes", width / 4}}, 4, 8};
    each.collectives = {{kForward, kAllGather, width * 4},
                        {kBackwardInput, kReduceScatter, width * 4, 0, true},
                        {kBackwardWeight, kAllReduce, 0, width * 4}};
  }
  spec.units.back().collectives.push_back({kLoss, kAllReduce, 8});
  return spec;
}

// Units with own parameters, frozen ones, without any, and with parameters tied to earlier units: one or
// several uses of a weight, units whose parameters are all tied, several ties in one unit.
inline ModelSpec random_spec(std::mt19937* rng) {
  const int count = 1 + static_cast<int>((*rng)() % 6);
  const int64_t width = 4;
  ModelSpec spec;
  spec.architecture = "random";
  std::vector<std::string> weights;  // own ones of earlier units
  for (int i = 0; i < count; ++i) {
    const bool owns = (*rng)() % 4 != 0;
    Unit u = unit(i, width, owns);
    for (Parameter& each : u.parameters) each.rule.frozen = (*rng)() % 4 == 0;
    const size_t ties = weights.empty() ? 0 : (*rng)() % 3;
    for (size_t t = 0; t < ties; ++t) {
      const std::string& owner = weights[(*rng)() % weights.size()];
      u.parameters.push_back(parameter(fmt::format("u{}.tied{}", i, t), {width, width}, owner));
    }
    if (owns && (*rng)() % 3 == 0) {
      u.statistics.push_back(statistic(u.name + ".running_mean", {width}));
      u.statistics.push_back(statistic(u.name + ".batches", {}, Statistic::Fold::kCount));
    }
    spec.units.push_back(u);
    if (owns) weights.push_back(u.parameters[0].name);
  }
  bool trains = false;
  for (const Unit& u : spec.units) {
    for (const Parameter& each : u.parameters) trains = trains || (!each.tied() && !each.rule.frozen);
  }
  if (!trains && weights.empty()) spec.units[0] = unit(0, width, true);
  if (!trains && !weights.empty()) {
    for (Parameter& each : spec.units.back().parameters) each.rule.frozen = false;
    if (spec.units.back().parameter_count() == 0) spec.units.back() = unit(count - 1, width, true);
  }
  return spec;
}

}  // namespace furrow::plan::testing
