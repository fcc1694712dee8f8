// What a rank brings to a program besides its buffers.  No process-global state: ranks are threads in tests.
#pragma once

#include <array>
#include <cstdint>

#include "furrow/base/clock.h"
#include "furrow/comm/communicator.h"
#include "furrow/plan/layout.h"

namespace furrow::train {

struct RankContext {
  int rank = 0;     // in the world
  int threads = 1;  // for kernels and libtorch on this rank's thread
  uint64_t seed = 0;
  const CancelToken* cancel =
      nullptr;  // polled between instructions, or voted on in a world of several; may be null
  const Clock* clock = &system_clock();

  // A world of several ranks; null and groups of no rank in a world of one.
  comm::Communicator* communicator = nullptr;
  std::array<comm::Group, plan::kAxisNames.size()> axes;  // by plan::Axis: the ranks along it
  comm::Group data;                                       // all data ranks: the world

  bool alone() const { return communicator == nullptr; }
};

}  // namespace furrow::train
