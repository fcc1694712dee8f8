// What a rank brings to a program besides its buffers.  No process-global state: ranks are threads in tests.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "furrow/base/array.h"
#include "furrow/base/clock.h"
#include "furrow/comm/communicator.h"
#include "furrow/plan/placement.h"

namespace furrow::train {

struct RankContext {
  int rank = 0;     // in the world
  int threads = 1;  // for kernels and libtorch on this rank's thread
  Device device;    // train/device_torch.h: where flat buffers and activations lie
  uint64_t seed = 0;
  // May be null.  Polled between instructions in a world of one; elsewhere voted on by every `measure`, so
  // that all ranks stop after the same step.
  const CancelToken* cancel = nullptr;
  const Clock* clock = &system_clock();

  // A world of several ranks; null and groups of no rank in a world of one.
  comm::Communicator* communicator = nullptr;
  std::array<comm::Group, plan::kGroupAxisNames.size()> groups;  // by plan::GroupAxis

  std::map<std::pair<int, bool>, comm::Group>
      lanes;  // by pp coordinate of the other end, and whether it receives

  bool alone() const { return communicator == nullptr; }
  const comm::Group& group(plan::GroupAxis axis) const { return groups[static_cast<size_t>(axis)]; }
  comm::Group world() const { return communicator->world(); }
  // Two ranks: who sends, who receives.
  const comm::Group& lane(int peer, bool outgoing) const { return lanes.at({peer, outgoing}); }
};

// Joins the ranks of `layout` into groups; every rank calls it once, at the same point.  A world of one rank
// is left alone.  REQUIRES: layout.world() == communicator.size().
void join(comm::Communicator* communicator, const plan::Layout& layout, RankContext* rank);

// Whether the sums that NCCL must not make are made on the ranks' devices.
bool adds_on_device(const RankContext& rank);

// Who adds gradients of a type between the ranks of devices, for people: "direct over NCCL, added on the
// device".  Empty where their memory is the host's.
std::string sums_of_gradients(const RankContext& rank, DType type);

}  // namespace furrow::train
