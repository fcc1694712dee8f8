// Collectives as legs on the wires of a cluster.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <map>

#include "furrow/base/error.h"
#include "furrow/plan/cluster.h"

namespace furrow::plan {
namespace {

// Participants of one level of wires: devices of a host by their index, or hosts by theirs.
struct Level {
  const LinkSpec* link = nullptr;
  std::vector<int> places;  // of the participants on the level
  int size = 1;             // places that the level has
  int32_t resource = -1;
  int sharers = 1;  // groups on the same ports
};

// Rate that one participant sends with, all of them at once, as a share of its port's: by topology.
double ring_hops(const Level& level) {
  double most = 0;
  const auto n = level.places.size();
  for (size_t i = 0; i < n; ++i) {
    const int apart = std::abs(level.places[(i + 1) % n] - level.places[i]);
    most = std::max<double>(most, std::min(apart, level.size - apart));
  }
  return std::max(1.0, most);
}

bool crosses_leaves(const Level& level) {
  const int leaf = std::max(1, level.link->ports_per_leaf);
  const auto other = [&](int place) { return place / leaf != level.places.front() / leaf; };
  return std::ranges::any_of(level.places, other);
}

double rate_of(const Level& level, bool pair) {
  const double port = level.link->port_bytes_per_second();
  const auto n = static_cast<double>(level.places.size());
  switch (level.link->topology) {
    case Topology::kSwitch:
      return port;
    case Topology::kStar:
      return pair ? port : port / n;
    case Topology::kRing:
      return pair ? port / 2 / ring_hops(level) : port / ring_hops(level);
    case Topology::kMesh:
      return port * (pair ? 1 : n - 1) / std::max(1, level.size - 1);
    case Topology::kTree:
      return crosses_leaves(level) ? port / level.link->oversubscription : port;
  }
  return port;
}

// `bytes` that a participant receives, in `steps` times as many messages as a ring needs for one round. Rings
// move every byte once, doubling pays its fewer steps with half the rate.  On a ring of wires there are only
// neighbours.
Leg best_of(const Level& level, double bytes, double steps, double messages) {
  const double rate = rate_of(level, false);
  const double moving = bytes * level.sharers / rate;
  const auto n = static_cast<double>(level.places.size());
  const double latency = level.link->latency_s * messages;
  const double ring = steps * (n - 1) * latency + moving;
  const double doubling = steps * std::ceil(std::log2(n)) * latency + 2 * moving;
  const double seconds = level.link->topology == Topology::kRing ? ring : std::min(ring, doubling);
  return {level.resource, seconds, static_cast<int64_t>(std::llround(bytes * level.sharers))};
}

class Movements {
 public:
  Movements(const Cluster& cluster, const MovementCall& call) : cluster_(cluster), call_(call) {
    const int host = cluster.host_of(call.self);
    std::map<int, int> members;  // by host
    for (const int rank : call.ranks) {
      ++members[cluster.host_of(rank)];
      if (cluster.host_of(rank) == host) inside_.places.push_back(rank % cluster.devices);
    }
    for (const auto& [each, count] : members) network_.places.push_back(each);
    inside_.link = &cluster.inside;
    inside_.size = cluster.devices;
    inside_.resource = inside_resource(cluster, call.self);
    network_.link = &cluster.network;
    network_.size = cluster.hosts;
    network_.resource = network_resource(cluster, host);
    network_.sharers = call.sharers;
    if (cluster.inside.topology == Topology::kStar) inside_.sharers = call.sharers;
    for (Level* level : {&inside_, &network_}) std::ranges::sort(level->places);
  }

  std::vector<Leg> make() {
    if (call_.ranks.size() < 2) return {};
    const auto all = static_cast<double>(call_.bytes);
    switch (call_.movement) {
      case Movement::kTransfer:
        return {transfer()};
      case Movement::kAllGather:
        return collect({outer(all, 1), inner(all, 1)});
      case Movement::kReduceScatter:
        return collect({inner(all, 1), outer(all, 1)});
      case Movement::kAllReduce:
        return collect({inner(all, 1), outer(2 * all, 2), inner(all, 1)});
      case Movement::kAllToAll:
        return all_to_all(all);
    }
    return {};
  }

 private:
  double local() const { return static_cast<double>(inside_.places.size()); }
  double hosts() const { return static_cast<double>(network_.places.size()); }

  // Slices of the whole among the members of a host.
  Leg inner(double bytes, double steps) const {
    if (local() < 2) return {};
    return best_of(inside_, bytes * (local() - 1) / local(), steps, messages());
  }

  // ... and among hosts: each member of a host moves its part, all of them over the host's ports.
  Leg outer(double bytes, double steps) const {
    if (hosts() < 2) return {};
    return best_of(network_, bytes * (hosts() - 1) / hosts(), steps, messages());
  }

  std::vector<Leg> all_to_all(double bytes) const {
    const auto n = static_cast<double>(call_.ranks.size());
    std::vector<Leg> legs;
    if (local() > 1) legs.push_back(best_of(inside_, bytes * (local() - 1) / n, 1, messages()));
    if (hosts() > 1) legs.push_back(best_of(network_, bytes * local() * (n - local()) / n, 1, messages()));
    return legs;
  }

  Leg transfer() const {
    const bool same_host = cluster_.host_of(call_.ranks[0]) == cluster_.host_of(call_.ranks[1]);
    const int sender = call_.ranks[0];
    const Level& level = same_host ? inside_ : network_;
    const double seconds = static_cast<double>(call_.bytes) * level.sharers / rate_of(level, true);
    const int32_t resource =
        same_host ? inside_resource(cluster_, sender) : network_resource(cluster_, cluster_.host_of(sender));
    return {resource, level.link->latency_s * messages() + seconds, call_.bytes * level.sharers};
  }

  double messages() const { return static_cast<double>(call_.messages); }

  static std::vector<Leg> collect(std::vector<Leg> legs) {
    std::erase_if(legs, [](const Leg& leg) { return leg.seconds == 0; });
    return legs;
  }

  const Cluster& cluster_;
  const MovementCall& call_;
  Level inside_, network_;
};

}  // namespace

std::string_view movement_name(Movement movement) {
  constexpr std::array<std::string_view, 5> kNames = {"all_gather", "reduce_scatter", "all_reduce",
                                                      "all_to_all", "transfer"};
  return kNames[static_cast<size_t>(movement)];
}

std::vector<Leg> legs_of(const Cluster& cluster, const MovementCall& call) {
  for (const int rank : call.ranks)
    FURROW_CHECK(rank >= 0 && rank < cluster.world(), "a rank outside the cluster");
  return Movements(cluster, call).make();
}

double seconds_of(std::span<const Leg> legs) {
  double sum = 0;
  for (const Leg& leg : legs) sum += leg.seconds;
  return sum;
}

int32_t network_resource(const Cluster& /*cluster*/, int host) { return host; }

int32_t inside_resource(const Cluster& cluster, int rank) {
  const bool shared = cluster.inside.topology == Topology::kStar;
  return cluster.hosts + (shared ? cluster.host_of(rank) * cluster.devices : rank);
}

std::string resource_name(const Cluster& cluster, int32_t resource) {
  if (resource < cluster.hosts) return fmt::format("host {} network", resource);
  const int rank = resource - cluster.hosts;
  if (cluster.inside.topology == Topology::kStar)
    return fmt::format("host {} {}", cluster.host_of(rank), cluster.inside.name);
  return fmt::format("rank {} {}", rank, cluster.inside.name);
}

}  // namespace furrow::plan
