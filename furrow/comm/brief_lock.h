// A lock for moments: free again by a plain store, where std::mutex takes a second locked instruction, which
// would also keep the core from what comes next until everything written before is with its cache.
#pragma once

#include <unistd.h>

#include <atomic>

#include "furrow/base/spin_pause.h"

namespace furrow::comm {

// Meets std::lock_guard.  Whoever finds it taken spins, then lets others run, then sleeps for moments.
class BriefLock {
 public:
  void lock() {
    for (int round = 0; taken_.exchange(true, std::memory_order_acquire); ++round) {
      while (taken_.load(std::memory_order_relaxed)) step_back(round++);
    }
  }
  void unlock() { taken_.store(false, std::memory_order_release); }

 private:
  static void step_back(int round) {
    if (round < 64) return spin_pause();
    usleep(round < 128 ? 0 : 20);
  }
  std::atomic<bool> taken_{false};
};

}  // namespace furrow::comm
