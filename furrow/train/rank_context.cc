#include "furrow/train/rank_context.h"

#include <fmt/format.h>

#include <string>
#include <vector>

#include "furrow/base/error.h"

namespace furrow::train {

namespace {

// Between the ranks of a pipeline, one a direction: threads and wires come with the first message.
void make_lanes(comm::Communicator* communicator, const plan::Placement& placement, RankContext* rank) {
  const int self = placement.pipeline_rank();
  for (int peer = 0; peer < placement.pipeline_ranks(); ++peer) {
    if (peer == self) continue;
    const int other = plan::pipeline_peer(placement, peer);
    for (const bool outgoing : {true, false}) {
      const std::string name = fmt::format("pp {}>{}", outgoing ? self : peer, outgoing ? peer : self);
      const std::vector<int> members =
          outgoing ? std::vector{placement.rank, other} : std::vector{other, placement.rank};
      rank->lanes[{peer, outgoing}] = communicator->group(members, {.name = name, .independent = true});
    }
  }
}

}  // namespace

void join(comm::Communicator* communicator, const plan::Layout& layout, RankContext* rank) {
  if (communicator == nullptr || communicator->size() == 1) return;
  FURROW_CHECK(layout.world() == communicator->size(), "a layout of another number of ranks");
  rank->communicator = communicator;
  rank->rank = communicator->rank();
  plan::Placement placement;
  placement.layout = layout;
  placement.rank = rank->rank;
  using enum plan::GroupAxis;
  for (const auto axis : {kReplicate, kShard, kData, kParts, kTensor, kAll}) {
    const std::vector<int> members = plan::group_ranks(placement, axis);
    if (members.size() == 1) continue;
    const auto index = static_cast<size_t>(axis);
    // What units do inside waits for no reduction that was started before.  On GPUs NCCL adds it: the tree's
    // way over the host (comm/nccl/exchange.h) would be taken several times a layer.
    const bool inside = axis == kTensor;
    rank->groups[index] = communicator->group(members, {.name = std::string(plan::kGroupAxisNames[index]),
                                                        .canonical = !inside || rank->device.type != "cuda",
                                                        .independent = inside});
  }
  make_lanes(communicator, placement, rank);
}

}  // namespace furrow::train
