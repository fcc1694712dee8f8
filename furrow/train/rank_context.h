// What a rank brings to a program besides its buffers.  No process-global state: ranks are threads in tests.
#pragma once

#include <cstdint>

#include "furrow/base/clock.h"

namespace furrow::train {

struct RankContext {
  int rank = 0;
  int threads = 1;  // for kernels and libtorch on this rank's thread
  uint64_t seed = 0;
  const CancelToken* cancel = nullptr;  // polled between instructions; may be null
  const Clock* clock = &system_clock();
};

}  // namespace furrow::train
