// Sends and receives over NCCL: a communicator of two ranks for each pair, made when the two first meet.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "furrow/comm/nccl/exchange.h"

namespace furrow::comm {
namespace {

struct Posted {
  int member = 0;
  Ticket ticket;
};

void wait_for(const NcclGroupWires& group, std::span<const Posted> posted, int64_t deadline_ns) {
  for (const Posted& one : posted) group.route(one.member).wait(one.ticket, deadline_ns);
}

// Neither counts nor kinds: both ends stand before their first transfer.
Envelope introduction(const GroupSpec& spec) {
  Envelope e;
  e.channel = spec.channel;
  e.kind = static_cast<uint8_t>(CollectiveKind::kBarrier);
  constexpr char kLabel[] = "first transfer";
  std::copy_n(kLabel, sizeof(kLabel) - 1, e.label);
  return e;
}

// Pairs are made in one order on every rank, lowest ranks first, so that no circle of ranks waits in NCCL.
void introduce(NcclGroupWires& group, const std::set<int>& peers, int64_t deadline_ns) {
  std::map<int, NcclUniqueId> ids, received;
  std::vector<Posted> posted;
  const Envelope envelope = introduction(group.spec);
  for (const int peer : peers) {
    if (group.pairs.contains(peer)) continue;
    if (group.rank() < peer)
      group.wires.nccl_call(group.wires.nccl().get_unique_id(&ids[peer]), "ncclGetUniqueId");
    const int world = group.world_rank(peer);
    posted.push_back({peer, group.route(peer).post_recv(
                                world, envelope, std::as_writable_bytes(std::span(&received[peer], 1)))});
    posted.push_back(
        {peer, group.route(peer).post_send(world, envelope, std::as_bytes(std::span(&ids[peer], 1)))});
  }
  wait_for(group, posted, deadline_ns);
  std::vector<std::pair<int, int>> order;
  for (const auto& [peer, id] : received)
    order.emplace_back(std::min(peer, group.rank()), std::max(peer, group.rank()));
  std::sort(order.begin(), order.end());
  for (const auto& [low, high] : order) {
    const int peer = low == group.rank() ? high : low;
    const bool first = low == group.rank();
    group.pairs[peer] =
        group.wires.make_comm({first ? ids[peer] : received[peer], 2, first ? 0 : 1}, deadline_ns);
  }
}

}  // namespace

void run_pairs(NcclGroupWires& group, std::span<const Collective> batch, std::span<const Envelope> envelopes,
               int64_t deadline_ns) {
  std::set<int> peers;
  for (const Collective& c : batch) peers.insert(c.root_or_peer);
  introduce(group, peers, deadline_ns);
  std::vector<Posted> posted;
  std::byte nothing{};
  for (size_t i = 0; i < batch.size(); ++i) {
    const int peer = batch[i].root_or_peer, world = group.world_rank(peer);
    Transport& route = group.route(peer);
    posted.push_back({peer, batch[i].kind == CollectiveKind::kRecv
                                ? route.post_recv(world, envelopes[i], {&nothing, 0})
                                : route.post_send(world, envelopes[i], {&nothing, 0})});
  }
  wait_for(group, posted, deadline_ns);
  const NcclApi& nccl = group.wires.nccl();
  const std::string whom = fmt::format("the other ends of transfers in group {}", group.spec.name);
  NcclCalls calls;
  for (const Collective& c : batch) {
    const NcclComm comm = group.pairs.at(c.root_or_peer);
    const int peer = group.rank() < c.root_or_peer ? 1 : 0;  // in the pair
    const size_t bytes = c.in.size() + c.out.size();
    if (bytes == 0) continue;
    const bool sends = c.kind == CollectiveKind::kSend;
    group.wires.nccl_call(sends
                              ? nccl.send(c.in.data(), bytes, kNcclUint8, peer, comm, group.wires.stream())
                              : nccl.recv(c.out.data(), bytes, kNcclUint8, peer, comm, group.wires.stream()),
                          sends ? "ncclSend" : "ncclRecv");
  }
  const int ended = calls.end();
  group.wires.nccl_call(ended, "ncclGroupEnd");
  if (ended == kNcclInProgress) {
    std::vector<NcclComm> comms;
    for (const int peer : peers) comms.push_back(group.pairs.at(peer));
    group.wires.settle(comms, deadline_ns, whom);
  }
  group.wires.wait(deadline_ns, whom);
}

}  // namespace furrow::comm
