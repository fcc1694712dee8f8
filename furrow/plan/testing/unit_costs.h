// Costs that a person can add up: seconds by kind of work, and of each collective.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "furrow/plan/cost.h"
#include "furrow/plan/value_bytes.h"

namespace furrow::plan::testing {

struct UnitCosts : public Costs {
  Cluster machine;
  double forward = 1, backward_input = 1, backward_weight = 1, loss = 0, batch = 0;
  double first_input_gradient = 0;                 // of a unit below which nothing is trained
  std::map<Op, double> flat = {{Op::kStep, 1.0}};  // others: 0
  double collective = 3, transfer = 0;
  double sums = 0.5;                         // of a reduce_scalar
  std::optional<double> launch;              // of anything that a device does; none: there is none
  std::map<std::string, double> units = {};  // what a unit multiplies its seconds with, by name

  UnitCosts() {
    machine.devices = 64;
    machine.inside = {.name = "wires", .bytes_per_second = 1e9};
    machine.network = machine.inside;
  }
  const Cluster& cluster() const override { return machine; }
  std::string source() const override { return "unit"; }
  double unit_seconds(const UnitWork& work) const override {
    const auto found = units.find(work.unit->name);
    const double times = found == units.end() ? 1 : found->second;
    if (work.work == Work::kForward) return times * forward;
    if (work.work == Work::kBackwardWeight) return times * backward_weight;
    return times * (work.input_gradient ? backward_input : first_input_gradient);
  }
  double flat_seconds(Op op, int64_t /*bytes*/) const override {
    const auto found = flat.find(op);
    return found == flat.end() ? 0 : found->second;
  }
  double batch_seconds(int64_t /*bytes*/) const override { return batch; }
  double loss_seconds(int64_t /*bytes*/) const override { return loss; }
  double overhead_seconds() const override { return 0; }
  std::optional<double> launch_seconds(const UnitWork& /*work*/) const override { return launch; }
  std::optional<double> launch_seconds(std::string_view /*op*/, int64_t /*bytes*/) const override {
    return launch;
  }
  int64_t workspace_bytes(bool /*multiplies*/, int /*threads*/) const override { return 0; }
  std::vector<Leg> legs(const MovementCall& call) const override {
    if (call.movement == Movement::kTransfer) return {{-1, transfer, call.bytes}};
    const bool is_sums = call.bytes == static_cast<int64_t>(call.ranks.size()) * kSumsBytes;
    return {{inside_resource(machine, call.ranks.front()), is_sums ? sums : collective, call.bytes}};
  }
};

}  // namespace furrow::plan::testing
