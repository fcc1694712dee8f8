// Inside each host by shared memory, between hosts each member with its counterparts: what crosses between
// hosts is cut among a host's members.  A rank receives no more bytes than it must; between hosts it is as
// many times less than by `direct` as a host has ranks.  Over a tree between hosts (for small buffers on many
// hosts) a share travels whole: log2(hosts) messages up and as many down.
#include <algorithm>
#include <bit>
#include <optional>

#include "furrow/comm/algorithms/rows.h"

namespace furrow::comm {
namespace {

struct Levels {
  Team inside;                            // ranks of this host
  Team between;                           // the members of all hosts with this rank's index in its host
  std::vector<std::vector<int>> members;  // by host
  int hosts() const { return between.size(); }
  int rank(int host, int index) const {
    return members[static_cast<size_t>(host)][static_cast<size_t>(index)];
  }
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
  levels.members = std::move(members);
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

// Inside the host each member adds the slices of its counterparts on all hosts; those sums meet between
// hosts.
template <class Between>
void reduce_scatter(Call& call, const Between& between) {
  const Levels levels = *levels_of(call);
  std::vector<Call::Slice> sums;  // by host, in scratch
  size_t bytes = 0;
  for (const int owner : levels.between.ranks) {
    sums.push_back({bytes, call.slice(owner).bytes});
    bytes += (sums.back().bytes + 63) / 64 * 64;
  }
  const std::span<std::byte> scratch = call.take(std::max<size_t>(bytes, 1));
  for (int h = 0; h < levels.hosts(); ++h) {
    const Call::Slice sum = sums[static_cast<size_t>(h)];
    direct_reduce_scatter(call, levels.inside, call.c.in, scratch.subspan(sum.begin, sum.bytes),
                          static_cast<Step>(h), [&](int i) { return call.slice(levels.rank(h, i)); });
  }
  between(call, levels.between, scratch, call.c.out, static_cast<Step>(levels.hosts()),
          [&](int h) { return sums[static_cast<size_t>(h)]; });
  finish(call.reduce_kind(), call.elements(call.c.out.size()), call.c.out.data());
}

// Between hosts each member gathers its counterparts' slices, and hands them on inside.
template <class Between>
void all_gather(Call& call, const Between& between) {
  const Levels levels = *levels_of(call);
  const Call::Slice own = call.slice(call.rank());
  const std::span<std::byte> all = call.c.out;
  copy(call.c.in, all.subspan(own.begin, own.bytes));
  between(call, levels.between, all, 0, [&](int h) { return call.slice(levels.between[h]); });
  const auto step = static_cast<Step>(levels.hosts());
  for (int h = 0; h < levels.hosts(); ++h) {
    direct_all_gather(call, levels.inside, all, step + static_cast<Step>(h),
                      [&](int i) { return call.slice(levels.rank(h, i)); });
  }
}

template <class ReduceScatter, class AllGather>
void run(Call& call, const ReduceScatter& reduce_scatter_between, const AllGather& all_gather_between) {
  switch (call.c.kind) {
    case CollectiveKind::kReduceScatter:
      return reduce_scatter(call, reduce_scatter_between);
    case CollectiveKind::kAllGather:
      return all_gather(call, all_gather_between);
    default:
      return all_reduce(call, [&](const Team& team, std::span<std::byte> data) {
        between_hosts(call, team, data, reduce_scatter_between, all_gather_between);
      });
  }
}

void tree_reduce(Call& call) {
  const Levels levels = *levels_of(call);
  const std::span<std::byte> room = room_for_sum(call);
  std::span<const std::byte> sum = tree_sum(call, levels.inside, call.c.in, room, 0);
  if (levels.inside.self == 0) sum = tree_sum(call, levels.between, sum, room, 1);
  hand_to_root(call, sum, room, 2);
}

// Between hosts to the members with the root's index in its host, and from them inside.
void broadcast(Call& call) {
  const Levels levels = *levels_of(call);
  const int root = call.c.root_or_peer, host = call.topology().host[static_cast<size_t>(root)];
  const std::vector<int>& beside = levels.members[static_cast<size_t>(host)];
  const auto index = static_cast<int>(std::find(beside.begin(), beside.end(), root) - beside.begin());
  const std::span<const std::byte> have = call.rank() == root ? call.c.in : call.c.out;
  if (levels.inside.self == index) tree_broadcast(call, levels.between, host, have, call.c.out, 0);
  tree_broadcast(call, levels.inside, index, have, call.c.out, 1);
  if (call.rank() == root) copy(call.c.in, call.c.out);
}

}  // namespace

bool several_on_each_host(const Call& call) {
  const std::optional<Levels> levels = levels_of(call);
  return levels && levels->inside.size() > 1 && levels->between.size() > 1;
}

// Where each host holds an aligned block of a power of two of ranks, its sum is a node of the tree.
bool hierarchical_is_canonical(const Call& call) {
  const std::optional<Levels> levels = levels_of(call);
  return levels && std::has_single_bit(levels->inside.ranks.size()) &&
         std::is_sorted(call.topology().host.begin(), call.topology().host.end());
}

void run_hierarchical(Call& call) { run(call, direct_reduce_scatter, direct_all_gather); }

void run_hierarchical_ring(Call& call) { run(call, ring_reduce_scatter, ring_all_gather); }

void run_hierarchical_tree(Call& call) {
  if (call.c.kind == CollectiveKind::kReduce) return tree_reduce(call);
  if (call.c.kind == CollectiveKind::kBroadcast) return broadcast(call);
  all_reduce(call, [&](const Team& team, std::span<std::byte> data) {
    tree_all_reduce(call, team, data, data, kBetween);
  });
}

}  // namespace furrow::comm
