#include "furrow/train/rank_context.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <set>
#include <span>
#include <string>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/text.h"
#include "furrow/tensor/dtype_torch.h"
#include "furrow/train/device_reducer_torch.h"
#include "furrow/train/device_torch.h"

namespace furrow::train {

namespace {

// Between the ranks of a pipeline, one a direction: threads and wires come with the first message.  In one
// order on all ranks: they end in it, and the end of NCCL's communicators waits for the other side.
void make_lanes(comm::Communicator* communicator, const plan::Placement& placement, RankContext* rank) {
  const int self = placement.pipeline_rank(), ranks = placement.pipeline_ranks();
  for (int from = 0; from < ranks; ++from) {
    for (int to = 0; to < ranks; ++to) {
      if (from == to || (from != self && to != self)) continue;
      const bool outgoing = from == self;
      const std::vector<int> members{plan::pipeline_peer(placement, from),
                                     plan::pipeline_peer(placement, to)};
      rank->lanes[{outgoing ? to : from, outgoing}] =
          communicator->group(members, {.name = fmt::format("pp {}>{}", from, to), .independent = true});
    }
  }
}

// NCCL makes its communicators, and takes hundreds of MiB for each, when a group first moves memory of a
// device: here, where that is still free, not in the middle of a step whose activations libtorch has kept it
// for.
void meet_on_devices(const RankContext& rank) {
  for (const auto axis : {plan::GroupAxis::kReplicate, plan::GroupAxis::kShard, plan::GroupAxis::kTensor}) {
    comm::Group group = rank.group(axis);
    if (group.state() == nullptr) continue;
    const at::Tensor all =
        at::zeros({group.size()}, at::TensorOptions().dtype(at::kByte).device(device_of(rank)));
    const std::span<std::byte> bytes(static_cast<std::byte*>(all.data_ptr()), all.nbytes());
    group.run({.kind = comm::CollectiveKind::kAllGather,
               .dtype = DType::kU8,
               .in = bytes.subspan(static_cast<size_t>(group.rank()), 1),
               .out = bytes,
               .label = "first meeting"});
  }
}

}  // namespace

void join(comm::Communicator* communicator, const plan::Layout& layout, RankContext* rank) {
  if (communicator == nullptr || communicator->size() == 1) return;
  FURROW_CHECK(layout.world() == communicator->size(), "a layout of another number of ranks");
  rank->communicator = communicator;
  rank->rank = communicator->rank();
  if (rank->device.type != "cpu") communicator->use_device(reduced_on(device_of(*rank)));
  plan::Placement placement;
  placement.layout = layout;
  placement.rank = rank->rank;
  using enum plan::GroupAxis;
  for (const auto axis : {kReplicate, kShard, kData, kParts, kTensor, kAll}) {
    const std::vector<int> members = plan::group_ranks(placement, axis);
    if (members.size() == 1) continue;
    const auto index = static_cast<size_t>(axis);
    // What units do inside waits for no reduction that was started before.  On GPUs NCCL adds it, in one
    // launch: the tree's exchange, additions and gather would be made several times a layer.
    const bool inside = axis == kTensor;
    rank->groups[index] = communicator->group(members, {.name = std::string(plan::kGroupAxisNames[index]),
                                                        .canonical = !inside || rank->device.type != "cuda",
                                                        .independent = inside});
  }
  make_lanes(communicator, placement, rank);
  if (adds_on_device(*rank)) meet_on_devices(*rank);
}

bool adds_on_device(const RankContext& rank) {
  return !rank.alone() && rank.communicator->options().backend == "nccl" &&
         rank.communicator->device() != nullptr;
}

std::string sums_of_gradients(const RankContext& rank, DType type) {
  if (!adds_on_device(rank)) return "";
  const at::Tensor some =
      at::empty({2}, at::TensorOptions().dtype(tensor::scalar_type(type)).device(device_of(rank)));
  comm::Collective c{.kind = comm::CollectiveKind::kReduceScatter, .dtype = type};
  c.in = {static_cast<const std::byte*>(some.const_data_ptr()), some.nbytes()};
  std::set<std::string> ways;
  for (const auto axis : {plan::GroupAxis::kReplicate, plan::GroupAxis::kShard}) {
    const comm::Group& group = rank.group(axis);
    if (group.state() != nullptr) ways.insert(rank.communicator->would_run(c, group));
  }
  return furrow::join(std::vector<std::string>(ways.begin(), ways.end()), "; ");
}

}  // namespace furrow::train
