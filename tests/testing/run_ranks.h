// Ranks as threads of this process.
#pragma once

#include <functional>

#include "furrow/comm/communicator.h"

namespace furrow::testing {

// Runs fn(communicator) on `size` threads, one per rank of an inproc world, and returns when all have ended.
// When ranks throw, the others are aborted, and Error{internal} names every rank and its error, lowest rank
// first; a rank whose error is only that it was aborted is left out.
void run_ranks(int size, const std::function<void(comm::Communicator&)>& fn,
               const comm::CommunicatorOptions& options = {});

}  // namespace furrow::testing
