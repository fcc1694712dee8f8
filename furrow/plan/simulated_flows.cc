#include <algorithm>
#include <limits>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/plan/simulator.h"

namespace furrow::plan::simulation {

namespace {

// Seconds by which legs that end together at `now` may differ.  More than half a step of `now`, whatever it
// is: a leg with less left than that would never end.
double rounding_s(double now) {
  constexpr double kLeast = 1e-13;  // more than the other up to 225 s
  return std::max(kLeast, 2 * std::numeric_limits<double>::epsilon() * now);
}

}  // namespace

int Flows::present(const std::vector<int>& members) const {
  return static_cast<int>(std::ranges::count_if(
      ranks_, [&](int rank) { return std::ranges::find(members, rank) != members.end(); }));
}

int32_t Flows::arrive(int32_t program, const Step& step, double now, double ready_s) {
  const auto [found, first] = open_.try_emplace(step.key, static_cast<int32_t>(flows_.size()));
  const int32_t number = found->second;
  if (first) {
    Flow flow;
    flow.legs = step.legs;
    flow.missing = present(step.members);
    flows_.push_back(std::move(flow));
  }
  Flow& flow = flows_[number];
  flow.members.emplace_back(program, step.lane);
  flow.ready_s = std::max(flow.ready_s, ready_s);
  if (--flow.missing == 0) open_.erase(found);
  lanes_[program][step.lane].push_back(number);
  try_start(number, now);
  return number;
}

bool Flows::idle(int32_t program, const Lane& lane) const {
  const auto found = lanes_[program].find(lane);
  return found == lanes_[program].end() || found->second.empty();
}

// Starts a flow that everybody waits for at the head of their lanes.
void Flows::try_start(int32_t number, double now) {
  Flow& flow = flows_[number];
  if (flow.missing > 0 || flow.start_s >= 0) return;
  for (const auto& [program, lane] : flow.members) {
    if (lanes_[program][lane].front() != number) return;
  }
  if (flow.ready_s > now) {
    held_.push_back(number);
    return;
  }
  flow.start_s = now;
  active_.push_back(number);
  begin_leg(number, now);
}

void Flows::begin_leg(int32_t number, double now) {
  Flow& flow = flows_[number];
  if (flow.leg == flow.legs.size()) return finish(number, now);
  const Leg& leg = flow.legs[flow.leg];
  flow.left_s = leg.seconds;
  if (leg.resource < 0) return;
  ++load_[leg.resource];
  use_[leg.resource].bytes += leg.bytes;
  use_[leg.resource].busy_s += leg.seconds;
}

void Flows::finish(int32_t number, double now) {
  flows_[number].end_s = now;
  std::erase(active_, number);
  ended_.push_back(number);
  for (const auto& [program, lane] : flows_[number].members) lanes_[program][lane].pop_front();
  // Copies: starting others adds to the lists.
  const auto members = flows_[number].members;
  for (const auto& [program, lane] : members) {
    const std::deque<int32_t>& queue = lanes_[program][lane];
    if (!queue.empty()) try_start(queue.front(), now);
  }
}

double Flows::share(const Flow& flow) const {
  const int32_t resource = flow.legs[flow.leg].resource;
  return resource < 0 ? 1.0 : load_[resource];
}

double Flows::next_s(double now) const {
  double next = std::numeric_limits<double>::infinity();
  for (const int32_t number : active_)
    next = std::min(next, now + flows_[number].left_s * share(flows_[number]));
  for (const int32_t number : held_) next = std::min(next, flows_[number].ready_s);
  return next;
}

std::vector<int32_t> Flows::advance(double now, double then) {
  for (const int32_t number : active_) {
    Flow& flow = flows_[number];
    flow.left_s -= (then - now) / share(flow);
  }
  const std::vector<int32_t> active = active_;
  for (const int32_t number : active) {
    Flow& flow = flows_[number];
    if (flow.left_s > rounding_s(then)) continue;
    const int32_t resource = flow.legs[flow.leg].resource;
    if (resource >= 0) --load_[resource];
    ++flow.leg;
    begin_leg(number, then);
  }
  for (const int32_t number : std::exchange(held_, {})) try_start(number, then);
  return std::exchange(ended_, {});
}

}  // namespace furrow::plan::simulation
