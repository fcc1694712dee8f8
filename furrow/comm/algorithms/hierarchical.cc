// Inside each host by shared memory, between hosts each member with its counterparts: what crosses between
// hosts is cut among a host's members.
#include <algorithm>
#include <bit>
#include <optional>

#include "furrow/comm/algorithms/rows.h"

namespace furrow::comm {
namespace {

struct Levels {
  Team inside;   // ranks of this host
  Team between;  // the members of all hosts with this rank's index in its host
};

// Nothing unless every host has as many ranks.
std::optional<Levels> levels_of(const Call& call) {
  const std::vector<int>& host = call.topology().host;
  const int hosts = 1 + *std::max_element(host.begin(), host.end());
  std::vector<std::vector<int>> members(static_cast<size_t>(hosts));
  for (int r = 0; r < call.size(); ++r)
    members[static_cast<size_t>(host[static_cast<size_t>(r)])].push_back(r);
  Levels levels;
  const auto mine = static_cast<size_t>(host[static_cast<size_t>(call.rank())]);
  levels.inside.ranks = members[mine];
  const auto at = std::find(members[mine].begin(), members[mine].end(), call.rank());
  levels.inside.self = static_cast<int>(at - members[mine].begin());
  levels.between.self = static_cast<int>(mine);
  for (const auto& of_host : members) {
    if (of_host.size() != members[mine].size()) return std::nullopt;
    levels.between.ranks.push_back(of_host[static_cast<size_t>(levels.inside.self)]);
  }
  return levels;
}

template <class Between>
void all_reduce(Call& call, const Between& between) {
  const Levels levels = *levels_of(call);
  const auto part = [&](int i) { return Call::share(call.c.in.size(), i, levels.inside.size()); };
  const Call::Slice own = part(levels.inside.self);
  const std::span<std::byte> mine = call.c.out.subspan(own.begin, own.bytes);
  direct_reduce_scatter(call, levels.inside, call.c.in, mine, 0, part);
  between(levels.between, mine);
  direct_all_gather(call, levels.inside, call.c.out, 1, part);
}

constexpr Step kBetween = 2;  // the first step number between hosts

template <class ReduceScatter, class AllGather>
void between_hosts(Call& call, const Team& team, std::span<std::byte> data,
                   const ReduceScatter& reduce_scatter, const AllGather& all_gather) {
  const auto part = [&](int i) { return Call::share(data.size(), i, team.size()); };
  const Call::Slice own = part(team.self);
  const std::span<std::byte> mine = data.subspan(own.begin, own.bytes);
  reduce_scatter(call, team, data, mine, kBetween, part);
  finish(call.reduce_kind(), call.elements(mine.size()), mine.data());
  all_gather(call, team, data, kBetween + static_cast<Step>(team.size()), part);
}

}  // namespace

bool fits_hierarchical(const Call& call) {
  if (call.c.kind != CollectiveKind::kAllReduce) return false;
  const std::optional<Levels> levels = levels_of(call);
  return levels && levels->inside.size() > 1 && levels->between.size() > 1;
}

// Where each host holds an aligned block of a power of two of ranks, its sum is a node of the tree.
bool hierarchical_is_canonical(const Call& call) {
  const std::optional<Levels> levels = levels_of(call);
  return levels && std::has_single_bit(levels->inside.ranks.size()) &&
         std::is_sorted(call.topology().host.begin(), call.topology().host.end());
}

void run_hierarchical(Call& call) {
  all_reduce(call, [&](const Team& team, std::span<std::byte> data) {
    between_hosts(call, team, data, direct_reduce_scatter, direct_all_gather);
  });
}

void run_hierarchical_ring(Call& call) {
  all_reduce(call, [&](const Team& team, std::span<std::byte> data) {
    between_hosts(call, team, data, ring_reduce_scatter, ring_all_gather);
  });
}

}  // namespace furrow::comm
